//! From a photograph to an identity.

use super::generate::{ENGINE, Pipeline};
use super::precision::Network;
use super::{About, Face, FaceAnalyser, Identity, Image, Selection, Template, align, standardise};
use crate::models::{Component, VitConfig};
use crate::{Error, Result};
use std::time::{Duration, Instant};

/// An identity and the face that it was read from.
#[derive(Debug)]
pub struct Encoded {
    /// The person.
    pub identity: Identity,
    /// The face in the photograph.
    pub face: Face,
    /// Where the time went.
    pub times: EncodeTimes,
}

/// Where the time of encoding went.
#[derive(Clone, Copy, Debug, Default)]
pub struct EncodeTimes {
    /// Reading, converting and packing weights: nothing the second time.
    pub load: Duration,
    /// Finding and choosing the face.
    pub detect: Duration,
    /// Bringing it to the encoder's template.
    pub align: Duration,
    /// Face encoder and projector.
    pub encode: Duration,
}

impl Pipeline {
    /// The person in a photograph. Fails with [`Error::Face`] if the face that is meant is not there or too small.
    pub fn encode(&mut self, photo: &Image, selection: Selection) -> Result<Encoded> {
        self.check_encoder()?;
        let mut times = EncodeTimes::default();
        let config = self.networks.model.face_config()?;
        let template = Template::from_config("face_encoder", &config.alignment, config.alignment_points.as_ref().map(|p| &p[..]))?;
        let analyser = match self.faces.take() {
            Some(ready) => ready,
            None => timed(&mut times.load, || FaceAnalyser::new(&self.networks.device))?,
        };
        let analyser = self.faces.insert(analyser);
        let face = timed(&mut times.detect, || analyser.find(photo, selection))?;
        let crop = timed(&mut times.align, || align(photo, &face.points, &template, config.image_size))?;
        let input = standardise(&crop, config.mean, config.std)?;
        self.networks.loading = Duration::ZERO;
        let mut elapsed = Duration::ZERO;
        let embeds = timed(&mut elapsed, || self.networks.in_range(Network::Identity, |networks| networks.identity(&input)))?;
        times.load += self.networks.loading;
        times.encode = elapsed.saturating_sub(self.networks.loading);
        let words = [embeds.shape()[1], embeds.shape()[2]];
        let identity = Identity::new(&embeds.reshape(words)?, self.about(&config)?)?;
        Ok(Encoded { identity, face, times })
    }

    fn check_encoder(&self) -> Result<()> {
        let model = &self.networks.model;
        match [Component::FaceEncoder, Component::Projector].into_iter().find(|c| !model.has(*c)) {
            None => Ok(()),
            Some(lacking) => {
                let what =
                    format!("has no {lacking}, so it cannot read faces: give an identity file, or a model with face_encoder and projector");
                Err(Error::config(model.name(), what))
            }
        }
    }

    fn about(&self, config: &VitConfig) -> Result<About> {
        Ok(About {
            face_encoder: self.networks.model.weights(Component::FaceEncoder)?.fingerprint(),
            projector: self.networks.model.weights(Component::Projector)?.fingerprint(),
            alignment: config.alignment.clone(),
            licence: config.licence.clone(),
            engine: ENGINE.into(),
        })
    }
}

fn timed<T>(total: &mut Duration, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = work();
    *total += start.elapsed();
    result
}
