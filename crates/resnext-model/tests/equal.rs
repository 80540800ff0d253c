//! `prove_equal` on functions that are equal and on functions that are not.

use candle_core::{D, DType, Result, Tensor};
use resnext_model::equivalence::{Functions, NotEqual, Place, prove_equal};

fn place(error: NotEqual) -> Place {
    match error {
        NotEqual::Different(place) => place,
        other => panic!("{other}"),
    }
}

/// TASO's axiom on grouped convolutions, withdrawn as wrong: two of them, of one input channel per group and of 1 and 3
/// output channels per group, side by side, are not the convolution with their weights one after the other.
#[test]
fn two_grouped_convolutions_are_not_their_concatenation() {
    const GROUPS: usize = 4;
    let conv = |x: &Tensor, w: &Tensor| x.conv2d(w, 1, 1, 1, GROUPS);
    let apart = |_: &Functions, t: &[Tensor]| Tensor::cat(&[conv(&t[0], &t[1])?, conv(&t[0], &t[2])?], 1);
    let joined = |_: &Functions, t: &[Tensor]| conv(&t[0], &Tensor::cat(&t[1..], 0)?);
    let shapes = [&[2, GROUPS, 5, 6][..], &[GROUPS, 1, 3, 3], &[3 * GROUPS, 1, 3, 3]];
    // Output channel 0 reads group 0 on both sides; channel 1 reads group 1 on one and group 0 on the other.
    assert_eq!(place(prove_equal(apart, joined, &shapes, 1e-15).unwrap_err()).index, [0, 1, 0, 0]);

    // What is right: the channels of each group side by side.
    let by_group = |_: &Functions, t: &[Tensor]| {
        let group = |i: usize| {
            let x = t[0].narrow(1, i, 1)?;
            let w = Tensor::cat(&[t[1].narrow(0, i, 1)?, t[2].narrow(0, 3 * i, 3)?], 0)?;
            x.conv2d(&w, 1, 1, 1, 1)
        };
        Tensor::cat(&(0..GROUPS).map(group).collect::<Result<Vec<_>>>()?, 1)
    };
    let interleaved = |_: &Functions, t: &[Tensor]| {
        let group = |i: usize| Tensor::cat(&[t[1].narrow(0, i, 1)?, t[2].narrow(0, 3 * i, 3)?], 0);
        conv(&t[0], &Tensor::cat(&(0..GROUPS).map(group).collect::<Result<Vec<_>>>()?, 0)?)
    };
    let proof = prove_equal(by_group, interleaved, &shapes, 1e-15).unwrap();
    assert!(proof.bound <= 1e-15 && proof.degree == 2 && proof.numbers > 1000, "{proof:?}");
}

/// Two layers with batch norms between them: a sum of paths and one matrix, as in forms (a) and (c), and with the batch
/// norms of two paths exchanged, which plain polynomials would not show.
#[test]
fn functions_of_channels_are_told_apart() {
    let paths = |order: [usize; 2]| {
        move |f: &Functions, t: &[Tensor]| {
            let path = |i: usize| {
                let y = t[0].conv2d(&t[1].narrow(0, 2 * i, 2)?, 0, 1, 1, 1)?;
                f.per_channel("norm", 2 * order[i], &y)?.conv2d(&t[2].narrow(1, 2 * i, 2)?, 0, 1, 1, 1)
            };
            f.per_channel("last", 0, &(path(0)? + path(1)?)?)
        }
    };
    let whole = |f: &Functions, t: &[Tensor]| {
        let y = f.per_channel("norm", 0, &t[0].conv2d(&t[1], 0, 1, 1, 1)?)?;
        f.per_channel("last", 0, &y.conv2d(&t[2], 0, 1, 1, 1)?)
    };
    let shapes = [&[2, 3, 4, 5][..], &[4, 3, 1, 1], &[6, 4, 1, 1]];
    let proof = prove_equal(paths([0, 1]), whole, &shapes, 1e-15).unwrap();
    assert!(proof.bound <= 1e-15 && proof.smallest_set > 1 << 20, "{proof:?}");
    let found = place(prove_equal(paths([1, 0]), whole, &shapes, 1e-15).unwrap_err());
    assert!(found.call.as_ref().is_some_and(|call| call.contains("`norm`")), "{found:?}");
}

/// One step of an activation: where it is applied once more, or its place is another, or a pixel too few.
#[test]
fn the_place_of_an_activation_matters() {
    let once = |f: &Functions, t: &[Tensor]| f.each("gelu", &t[0].broadcast_matmul(&t[1])?, &[]);
    let twice = |f: &Functions, t: &[Tensor]| f.each("gelu", &once(f, t)?, &[]);
    let before = |f: &Functions, t: &[Tensor]| f.each("gelu", &t[0], &[])?.broadcast_matmul(&t[1]);
    let (shapes, bound) = ([&[1, 3, 4][..], &[4, 4]], 1e-15);
    prove_equal(once, once, &shapes, bound).unwrap();
    place(prove_equal(once, twice, &shapes, bound).unwrap_err());
    place(prove_equal(once, before, &shapes, bound).unwrap_err());
    // The transposed product is the same function, although nothing of it is computed in the same order.
    let turned = |f: &Functions, t: &[Tensor]| {
        f.each("gelu", &t[1].t()?.broadcast_matmul(&t[0].transpose(1, 2)?)?.transpose(1, 2)?, &[])
    };
    assert!(prove_equal(once, turned, &shapes, bound).unwrap().bound <= bound);
}

#[test]
fn what_is_no_sum_of_products_is_refused() {
    let (shapes, bound) = ([&[2, 3][..], &[3, 3]], 1e-15);
    let product = |_: &Functions, t: &[Tensor]| t[0].matmul(&t[1]);
    let says = |error: NotEqual, text: &str| assert!(error.to_string().contains(text), "{error}");
    let relu = |_: &Functions, t: &[Tensor]| t[0].matmul(&t[1])?.relu();
    says(
        prove_equal(product, relu, &shapes, bound).unwrap_err(),
        "the second function does not consist of sums",
    );
    let scaled = |_: &Functions, t: &[Tensor]| t[0].matmul(&t[1])? / 3.0;
    says(
        prove_equal(scaled, product, &shapes, bound).unwrap_err(),
        "the first function does not consist of sums",
    );
    let mean = |_: &Functions, t: &[Tensor]| t[0].matmul(&t[1])?.mean_keepdim(D::Minus1);
    says(prove_equal(mean, mean, &shapes, bound).unwrap_err(), "the first function");
    // Exact at integers, and something else between them.
    let of_integers: [fn(&Tensor) -> Result<Tensor>; 4] =
        [|y| y.round(), |y| y.floor(), |y| y.ceil(), |y| y.to_dtype(DType::I64)?.to_dtype(DType::F64)];
    for other in of_integers {
        let of_product = |_: &Functions, t: &[Tensor]| other(&t[0].matmul(&t[1])?);
        says(prove_equal(product, of_product, &shapes, bound).unwrap_err(), "the second function");
        // Of the inputs, and of a function's values.
        let of_input = |_: &Functions, t: &[Tensor]| other(&t[0])?.matmul(&t[1]);
        says(prove_equal(product, of_input, &shapes, bound).unwrap_err(), "the second function");
        let unknown = |f: &Functions, t: &[Tensor]| f.each("gelu", &t[0], &[])?.matmul(&t[1]);
        let of_value = |f: &Functions, t: &[Tensor]| other(&f.each("gelu", &t[0], &[])?)?.matmul(&t[1]);
        says(prove_equal(unknown, of_value, &shapes, bound).unwrap_err(), "the second function");
    }
    let turned = |_: &Functions, t: &[Tensor]| t[0].matmul(&t[1])?.t();
    says(prove_equal(product, turned, &shapes, bound).unwrap_err(), "different shapes: [2, 3] and [3, 2]");
    let wrong = |_: &Functions, t: &[Tensor]| t[1].matmul(&t[0]);
    assert!(matches!(prove_equal(product, wrong, &shapes, bound), Err(NotEqual::Candle(_))));
    // A square of a 60-fold square leaves no prime that is large enough.
    let power = |_: &Functions, t: &[Tensor]| (0..6).try_fold(t[0].clone(), |x, _| x.sqr());
    says(prove_equal(power, power, &[&[4]], bound).unwrap_err(), "the first function");
}
