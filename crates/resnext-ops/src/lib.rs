//! Fast grouped convolution and the other tensor operations ResNeXt needs, as candle custom ops with gradients.
