//! int8 quantization.

use resnext_kernels::Quantization;

#[test]
fn numbers_become_the_nearest_there_are() {
    let positive = Quantization::positive(255.0).unwrap();
    let cases = [
        (-1.0, 0),
        (0.5, 0),
        (1.5, 2),
        (2.5, 2),
        (2.6, 3),
        (254.4, 254),
        (255.0, 255),
        (1e30, 255),
        (f32::INFINITY, 255),
        (f32::NEG_INFINITY, 0),
        (f32::NAN, 255),
    ];
    for (value, q) in cases {
        assert_eq!(positive.nearest(value), q, "{value}");
    }
    let signed = Quantization::signed(127.0).unwrap();
    for (value, q) in [(0.0, 128), (-127.0, 1), (-1000.0, 0), (127.0, 255), (-0.6, 127)] {
        assert_eq!(signed.nearest(value), q, "{value}");
        assert!((signed.value(q) - value).abs() < 0.5 || value < -128.0);
    }
    assert_eq!(Quantization::positive(0.0).unwrap().nearest(0.0), 0);
    for wrong in [-1.0, f32::NAN, f32::INFINITY] {
        assert!(Quantization::signed(wrong).unwrap_err().to_string().contains("at least 0"));
    }
}
