//! DDIM (Song et al. 2020) with eta 0 on the noise schedule of a diffusers `scheduler_config.json`.

use crate::{Error, Result};
use serde::Deserialize;

/// Sampler classes whose files describe the schedule in the fields read here. Sampling is DDIM whichever of them the file names.
const CLASSES: [&str; 6] = [
    "PNDMScheduler",
    "DDIMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
];

/// The noise schedule a model was trained with, and how steps are spread over it.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    alphas_cumprod: Vec<f64>,
    final_alpha: f64,
    steps_offset: usize,
    spacing: Spacing,
}

/// How sampling steps are spread over the training steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Spacing {
    Leading,
    Trailing,
    Linspace,
}

/// Timesteps of one sampling run and what the update needs at each of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// Training timesteps in the order in which they are visited: from noise to picture.
    pub timesteps: Vec<usize>,
    /// For each step √ā, √(1−ā), √ā′, √(1−ā′), where ā′ belongs to the timestep that follows.
    pub coefficients: Vec<[f32; 4]>,
}

impl Schedule {
    /// Reads a `scheduler_config.json`. `file` names it in errors.
    ///
    /// Refuses by name what would give wrong pictures: v-prediction, clipping, thresholding, unknown schedules.
    pub fn from_json(json: &[u8], file: &str) -> Result<Self> {
        let config: Config =
            serde_json::from_slice(json).map_err(|e| Error::config(file, format!("is not a scheduler configuration: {e}")))?;
        config.check(file)?;
        let betas = config.betas(file)?;
        let alphas_cumprod: Vec<f64> = betas
            .iter()
            .scan(1.0, |product, beta| {
                *product *= 1.0 - beta;
                Some(*product)
            })
            .collect();
        let first = alphas_cumprod[0];
        // the default of diffusers' DDIMScheduler is 1; every other class has none and ends at the first step's value
        let to_one = config.set_alpha_to_one.unwrap_or(config.class_name == "DDIMScheduler");
        Ok(Self {
            final_alpha: if to_one { 1.0 } else { first },
            alphas_cumprod,
            steps_offset: config.steps_offset,
            spacing: config.timestep_spacing,
        })
    }

    /// The schedule of every Stable Diffusion 1 and 2 model.
    pub fn stable_diffusion() -> Result<Self> {
        let json = br#"{"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}"#;
        Self::from_json(json, "built-in scheduler")
    }

    /// Products of 1 − β up to each training timestep.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// Timesteps and coefficients of a run of `count` steps.
    pub fn steps(&self, count: usize) -> Result<Steps> {
        let train = self.alphas_cumprod.len();
        let refuse = |most: usize| Error::input(format!("{count} steps asked for; this model takes 1 to {most} (30 is usual)"));
        if count == 0 || count > train {
            return Err(refuse(train));
        }
        let timesteps = self.timesteps(count);
        if timesteps.iter().any(|&t| t >= train) {
            return Err(refuse(train - self.steps_offset));
        }
        let coefficients = timesteps.iter().map(|&t| self.coefficients(t, train / count)).collect();
        Ok(Steps { timesteps, coefficients })
    }

    fn timesteps(&self, count: usize) -> Vec<usize> {
        let train = self.alphas_cumprod.len();
        match self.spacing {
            Spacing::Leading => (0..count).rev().map(|i| i * (train / count) + self.steps_offset).collect(),
            Spacing::Trailing => {
                let ratio = train as f64 / count as f64;
                (0..count).map(|i| (train as f64 - i as f64 * ratio).round_ties_even() as usize - 1).collect()
            }
            Spacing::Linspace => {
                let ratio = (train - 1) as f64 / (count.max(2) - 1) as f64;
                (0..count).rev().map(|i| (i as f64 * ratio).round_ties_even() as usize).collect()
            }
        }
    }

    /// √ā and √(1−ā) of a training timestep: the shares of picture and noise. Fails beyond the schedule.
    pub fn shares(&self, timestep: usize) -> Result<[f32; 2]> {
        let known = self.alphas_cumprod.get(timestep).ok_or_else(|| {
            Error::input(format!("timestep {timestep} is beyond the {} of the model's schedule", self.alphas_cumprod.len()))
        })?;
        Ok([*known, 1.0 - known].map(|x| x.sqrt() as f32))
    }

    fn coefficients(&self, t: usize, stride: usize) -> [f32; 4] {
        let now = self.alphas_cumprod[t];
        let next = t.checked_sub(stride).map_or(self.final_alpha, |p| self.alphas_cumprod[p]);
        [now, 1.0 - now, next, 1.0 - next].map(|x| x.sqrt() as f32)
    }
}

/// The fields of diffusers' file that matter here, with diffusers' defaults.
#[derive(Deserialize)]
struct Config {
    #[serde(rename = "_class_name", default)]
    class_name: String,
    #[serde(default = "thousand")]
    num_train_timesteps: usize,
    #[serde(default = "default_beta_start")]
    beta_start: f64,
    #[serde(default = "default_beta_end")]
    beta_end: f64,
    #[serde(default = "linear")]
    beta_schedule: String,
    #[serde(default)]
    trained_betas: Option<Vec<f64>>,
    #[serde(default)]
    clip_sample: Option<bool>,
    #[serde(default)]
    thresholding: bool,
    #[serde(default)]
    rescale_betas_zero_snr: bool,
    #[serde(default)]
    set_alpha_to_one: Option<bool>,
    #[serde(default)]
    steps_offset: usize,
    #[serde(default = "leading")]
    timestep_spacing: Spacing,
    #[serde(default = "epsilon")]
    prediction_type: String,
}

impl Config {
    fn check(&self, file: &str) -> Result<()> {
        let refuse = |what: String| Err(Error::config(file, what));
        if !CLASSES.contains(&self.class_name.as_str()) {
            return refuse(format!("scheduler class `{}` is not supported; known: {}", self.class_name, CLASSES.join(", ")));
        }
        match self.prediction_type.as_str() {
            "epsilon" => {}
            "v_prediction" => {
                return refuse("prediction_type is v_prediction, as in Stable Diffusion 2.1 for 768 pixels; pseudo-words are made for models that predict noise: use stable-diffusion-2-1-base".into());
            }
            other => return refuse(format!("prediction_type `{other}` is not supported; epsilon is")),
        }
        // diffusers' DDIMScheduler clips unless told not to; the other classes never do
        if self.clip_sample.unwrap_or(self.class_name == "DDIMScheduler") {
            return refuse(
                "clip_sample is true (or left to diffusers' default, which is true); latents must not be clipped: set it to false".into(),
            );
        }
        if self.thresholding || self.rescale_betas_zero_snr {
            return refuse("thresholding and rescale_betas_zero_snr are not supported: set them to false".into());
        }
        if self.num_train_timesteps == 0 {
            return refuse("num_train_timesteps is 0".into());
        }
        Ok(())
    }

    fn betas(&self, file: &str) -> Result<Vec<f64>> {
        let n = self.num_train_timesteps;
        let between = |a: f64, b: f64| (0..n).map(move |i| a + (b - a) * i as f64 / (n.max(2) - 1) as f64);
        let betas: Vec<f64> = match (&self.trained_betas, self.beta_schedule.as_str()) {
            (Some(betas), _) => betas.clone(),
            (None, "linear") => between(self.beta_start, self.beta_end).collect(),
            (None, "scaled_linear") => between(self.beta_start.sqrt(), self.beta_end.sqrt()).map(|r| r * r).collect(),
            (None, other) => {
                return Err(Error::config(file, format!("beta_schedule `{other}` is not supported; linear and scaled_linear are")));
            }
        };
        if betas.is_empty() || betas.iter().any(|b| !(0.0..1.0).contains(b)) {
            return Err(Error::config(file, "betas must lie between 0 and 1"));
        }
        Ok(betas)
    }
}

fn thousand() -> usize {
    1000
}

fn default_beta_start() -> f64 {
    0.0001
}

fn default_beta_end() -> f64 {
    0.02
}

fn linear() -> String {
    "linear".into()
}

fn epsilon() -> String {
    "epsilon".into()
}

fn leading() -> Spacing {
    Spacing::Leading
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(extra: &str) -> Result<Schedule> {
        let base = r#"{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": false}"#;
        let mut json: serde_json::Map<String, serde_json::Value> = serde_json::from_str(base).unwrap();
        json.extend(serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(extra).unwrap());
        Schedule::from_json(&serde_json::to_vec(&json).unwrap(), "test.json")
    }

    #[test]
    fn golden_schedule() {
        let schedule = Schedule::stable_diffusion().unwrap();
        let golden = [
            (0, 0.99915),
            (1, 0.998_296_027_8),
            (34, 0.967_881_393_1),
            (500, 0.276_332_683_8),
            (958, 0.007_534_772_7),
            (999, 0.004_660_098_5),
        ];
        for (t, want) in golden {
            assert!((schedule.alphas_cumprod()[t] - want).abs() < 2e-7, "abar[{t}] = {}", schedule.alphas_cumprod()[t]);
        }
        let steps = schedule.steps(30).unwrap();
        assert_eq!((steps.timesteps[0], steps.timesteps[1], steps.timesteps[28], steps.timesteps[29]), (958, 925, 34, 1));
        let last = steps.coefficients[29];
        assert!((f64::from(last[2]).powi(2) - 0.99915).abs() < 1e-6, "the last step goes to abar[0]: {last:?}");
    }

    #[test]
    fn spacings_of_diffusers() {
        // DDIMScheduler(timestep_spacing=...).set_timesteps(7)
        let trailing = with(r#"{"timestep_spacing": "trailing"}"#).unwrap();
        assert_eq!(trailing.steps(7).unwrap().timesteps, [999, 856, 713, 570, 428, 285, 142]);
        let linspace = with(r#"{"timestep_spacing": "linspace"}"#).unwrap();
        assert_eq!(linspace.steps(7).unwrap().timesteps, [999, 832, 666, 500, 333, 166, 0]);
        assert_eq!(linspace.steps(1).unwrap().timesteps, [0]);
        let ends_at_one = linspace.steps(7).unwrap().coefficients[6];
        assert_eq!(ends_at_one[2..], [1.0, 0.0], "set_alpha_to_one is DDIM's default");
    }

    #[test]
    fn bad_configurations_are_named() {
        for (extra, word) in [
            (r#"{"prediction_type": "v_prediction"}"#, "2-1-base"),
            (r#"{"prediction_type": "sample"}"#, "sample"),
            (r#"{"clip_sample": true}"#, "clip_sample"),
            (r#"{"thresholding": true}"#, "thresholding"),
            (r#"{"beta_schedule": "sigmoid"}"#, "sigmoid"),
            (r#"{"timestep_spacing": "other"}"#, "other"),
            (r#"{"beta_end": 1.5}"#, "betas"),
        ] {
            let error = with(extra).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("test.json"), "{error}");
        }
        let class = Schedule::from_json(br#"{"_class_name": "KarrasVeScheduler"}"#, "test.json").unwrap_err().to_string();
        assert!(class.contains("KarrasVeScheduler"), "{class}");
    }

    #[test]
    fn bad_step_counts_say_what_is_possible() {
        let schedule = Schedule::stable_diffusion().unwrap();
        assert!(schedule.steps(999).is_ok());
        for count in [0, 1000, 1001] {
            assert!(schedule.steps(count).unwrap_err().to_string().contains("steps asked for"));
        }
    }
}
