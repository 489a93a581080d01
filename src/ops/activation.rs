//! Activations that other operations apply to their result.

/// A function of one number, applied in the epilogue of an operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// x
    None,
    /// max(x, 0)
    Relu,
    /// x · sigmoid(x)
    Silu,
    /// x · Φ(x), exact (by erf), as OpenCLIP and SD 2.x use it
    Gelu,
    /// x · sigmoid(1.702 x), as OpenAI's CLIP uses it
    QuickGelu,
    /// x for x > 0, slope · x otherwise
    LeakyRelu(f32),
    /// Like [`Activation::LeakyRelu`] with one slope per channel, from an input of the operation.
    PRelu,
    /// 1 / (1 + exp(−x))
    Sigmoid,
}

impl Activation {
    /// The function in f64; `slope` is read by [`Activation::PRelu`] only.
    pub fn eval(self, x: f64, slope: f64) -> f64 {
        match self {
            Self::None => x,
            Self::Relu => x.max(0.0),
            Self::Silu => x * sigmoid(x),
            Self::Gelu => gelu(x),
            Self::QuickGelu => x * sigmoid(1.702 * x),
            Self::LeakyRelu(negative) => {
                if x > 0.0 {
                    x
                } else {
                    f64::from(negative) * x
                }
            }
            Self::PRelu => {
                if x > 0.0 {
                    x
                } else {
                    slope * x
                }
            }
            Self::Sigmoid => sigmoid(x),
        }
    }

    /// The derivative in f64, at a kink that of the left side; `slope` as in [`Activation::eval`].
    pub fn derivative(self, x: f64, slope: f64) -> f64 {
        let with_sigmoid = |k: f64| sigmoid(k * x) * (1.0 + k * x * (1.0 - sigmoid(k * x)));
        match self {
            Self::None => 1.0,
            Self::Relu => f64::from(u8::from(x > 0.0)),
            Self::Silu => with_sigmoid(1.0),
            Self::Gelu => gelu_derivative(x),
            Self::QuickGelu => with_sigmoid(1.702),
            Self::LeakyRelu(_) | Self::PRelu if x > 0.0 => 1.0,
            Self::LeakyRelu(negative) => f64::from(negative),
            Self::PRelu => slope,
            Self::Sigmoid => sigmoid(x) * (1.0 - sigmoid(x)),
        }
    }
}

/// Φ(x) + x · φ(x)
pub(crate) fn gelu_derivative(x: f64) -> f64 {
    let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)) + x * density
}

/// 1 / (1 + exp(−x))
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// x · Φ(x)
pub(crate) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// Error function to 1e-15: its Taylor series near zero, the continued fraction of erfc far out.
pub(crate) fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a > 6.0 {
        return x.signum();
    }
    if a < 2.5 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-17 * sum.abs() {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let mut fraction = 0.0;
    for k in (1..=60).rev() {
        fraction = f64::from(k) / 2.0 / (a + fraction);
    }
    let erfc = (-a * a).exp() / ((a + fraction) * std::f64::consts::PI.sqrt());
    x.signum() * (1.0 - erfc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_has_its_published_values() {
        // Abramowitz and Stegun, table 7.1
        for (x, want) in
            [(0.5, 0.520_499_877_813_046_5), (1.0, 0.842_700_792_949_714_9), (2.0, 0.995_322_265_018_952_7), (3.0, 0.999_977_909_503_001_4)]
        {
            assert!((erf(x) - want).abs() < 1e-14, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
    }

    #[test]
    fn gelu_is_exact_not_tanh() {
        assert!((gelu(1.0) - 0.841_344_746).abs() < 1e-9);
    }
}
