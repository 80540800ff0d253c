//! CIFAR and generated image sets, augmentation and a deterministic multi-threaded loader.
