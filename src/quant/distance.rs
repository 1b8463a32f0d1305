//! How far weights are from what they were made of.

use super::isa::Isa;
use crate::per_isa;

/// Sums over weights before and after.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Distance {
    /// Weights compared.
    pub weights: u64,
    /// Sum of the squared differences.
    pub squared_error: f64,
    /// Sum of the squares of the source.
    pub squared_source: f64,
    /// Largest absolute difference.
    pub max_error: f32,
    /// Weights that are infinite or NaN, before or after: they are in no sum.
    pub not_finite: u64,
}

impl Distance {
    /// Adds one run of weights.
    pub fn add(&mut self, isa: Isa, source: &[f32], copy: &[f32]) {
        self.merge(compared(isa, source, copy));
    }

    /// Adds the sums of another part.
    pub fn merge(&mut self, other: Distance) {
        self.weights += other.weights;
        self.squared_error += other.squared_error;
        self.squared_source += other.squared_source;
        self.max_error = self.max_error.max(other.max_error);
        self.not_finite += other.not_finite;
    }

    /// Root of the mean squared difference.
    pub fn rmse(&self) -> f64 {
        (self.squared_error / self.weights.max(1) as f64).sqrt()
    }

    /// Signal-to-noise ratio in decibels; none where nothing differs.
    pub fn snr_db(&self) -> Option<f64> {
        (self.squared_error > 0.0)
            .then(|| 10.0 * (self.squared_source / self.squared_error).log10())
    }
}

/// Sums that go on side by side, so that none waits for the one before it.
const LANES: usize = 16;

#[inline(always)]
fn compared_body(source: &[f32], copy: &[f32]) -> Distance {
    let (mut error, mut power) = ([0f64; LANES], [0f64; LANES]);
    let (mut most, mut odd) = ([0f32; LANES], [0u32; LANES]);
    let mut run = |a: &[f32; LANES], b: &[f32; LANES]| {
        for i in 0..LANES {
            let finite = a[i].is_finite() && b[i].is_finite();
            let (d, a) = if finite { (a[i] - b[i], a[i]) } else { (0.0, 0.0) };
            error[i] += f64::from(d) * f64::from(d);
            power[i] += f64::from(a) * f64::from(a);
            most[i] = if d.abs() > most[i] { d.abs() } else { most[i] };
            odd[i] += u32::from(!finite);
        }
    };
    let (sources, source_rest) = source.as_chunks::<LANES>();
    let (copies, copy_rest) = copy.as_chunks::<LANES>();
    sources.iter().zip(copies).for_each(|(a, b)| run(a, b));
    // Zeros are as far from zeros as nothing is.
    let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
    let rest = a.iter_mut().zip(&mut b).zip(source_rest.iter().zip(copy_rest));
    rest.for_each(|((a, b), (x, y))| (*a, *b) = (*x, *y));
    run(&a, &b);
    Distance {
        weights: source.len() as u64,
        squared_error: error.iter().sum(),
        squared_source: power.iter().sum(),
        max_error: most.iter().fold(0.0, |most, d| d.max(most)),
        not_finite: odd.iter().map(|n| u64::from(*n)).sum(),
    }
}

per_isa! {
    /// The sums of one run of weights.
    fn compared(source: &[f32], copy: &[f32]) -> Distance = compared_body;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_sum_what_one_by_one_sums() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let mut a: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut b: Vec<f32> = a.iter().map(|x| x + x * x * 1e-3).collect();
            if len > 20 {
                (a[3], b[17]) = (f32::NAN, f32::INFINITY);
            }
            let (mut error, mut power, mut most, mut odd) = (0f64, 0f64, 0f32, 0);
            for (a, b) in a.iter().zip(&b) {
                if !(a - b).is_finite() {
                    odd += 1;
                    continue;
                }
                error += f64::from(a - b) * f64::from(a - b);
                power += f64::from(*a) * f64::from(*a);
                most = most.max((a - b).abs());
            }
            let mut portable = Distance::default();
            portable.add(Isa::PORTABLE, &a, &b);
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b;
            assert!(near(portable.squared_error, error) && near(portable.squared_source, power));
            assert_eq!((portable.max_error, portable.not_finite), (most, odd));
            // The same bits on every machine.
            let mut best = Distance::default();
            best.add(Isa::best(), &a, &b);
            assert_eq!(best, portable);
        }
    }
}
