//! All clusterings of a model together.

use std::collections::BTreeMap;
use std::convert::Infallible;

use edkm_cluster::Temperature;

use crate::{visit_clustered, Clustering, EdkmDevice, Parameters, SavedClustering};

/// Tells each clustering of a model the name of its weight, which its errors have from then on.
pub fn name_clusterings<D: EdkmDevice>(model: &mut impl Parameters<D>) {
    each(model, |name, clustering| clustering.set_name(name));
}

/// Changes the temperature of all clustered weights of a model, for a schedule.
pub fn set_temperatures<D: EdkmDevice>(model: &mut impl Parameters<D>, temperature: Temperature) {
    each(model, |_, clustering| clustering.set_temperature(temperature));
}

/// Forgets what all clusterings of a model have reached: for weights that were loaded or initialised anew ([`Clustering::reset`]).
pub fn reset_clusterings<D: EdkmDevice>(model: &mut impl Parameters<D>) {
    each(model, |_, clustering| clustering.reset());
}

/// Settings and states of all clusterings of a model, by the names of their weights: what goes beside a file of its parameters so that a model that loads both
/// computes and goes on with the same bits.
///
/// ```
/// use dfdx::prelude::*;
/// use dfdx_edkm::{clusterings_of, nn::builders::ClusteredLinear, restore_clusterings, set_temperatures, Temperature};
/// # fn main() -> Result<(), dfdx_edkm::UnlikeClusterings> {
/// # let dev: Cpu = Default::default();
/// type Model = (ClusteredLinear<8, 16>, ReLU, ClusteredLinear<16, 4>);
/// let mut model = dev.build_module::<Model, f32>();
/// let x: Tensor<Rank2<5, 8>, f32, _> = dev.sample_normal();
/// set_temperatures(&mut model, Temperature::Relative(0.01));
/// let y = model.forward(x.clone());
/// let clusterings = clusterings_of(&mut model); // serde has them
///
/// let mut other = dev.build_module::<Model, f32>();
/// other.0.weight = model.0.weight.clone(); // or `other.load(file)`
/// # other.0.bias = model.0.bias.clone();
/// # other.2.bias = model.2.bias.clone();
/// other.2.weight = model.2.weight.clone();
/// restore_clusterings(&mut other, clusterings)?;
/// assert_eq!(other.forward(x).array(), y.array());
/// # Ok(())
/// # }
/// ```
pub fn clusterings_of<D: EdkmDevice>(model: &mut impl Parameters<D>) -> BTreeMap<String, SavedClustering> {
    let mut saved = BTreeMap::new();
    each(model, |name, clustering| {
        saved.insert(name.to_owned(), clustering.saved());
    });
    saved
}

/// Clustered weights of a model that are not those that were saved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the clustered weights are not those that were saved: {name} is {where_it_is} alone")]
pub struct UnlikeClusterings {
    /// One of them.
    pub name: String,
    where_it_is: &'static str,
}

/// Gives all clusterings of a model the settings and states that [`clusterings_of`] gave.
///
/// # Errors
/// Clustered weights of other names; nothing is changed then.
pub fn restore_clusterings<D: EdkmDevice>(
    model: &mut impl Parameters<D>,
    mut saved: BTreeMap<String, SavedClustering>,
) -> Result<(), UnlikeClusterings> {
    let there = clusterings_of(model);
    let only = |here: &BTreeMap<String, SavedClustering>, there: &BTreeMap<String, SavedClustering>, where_it_is| {
        let name = here.keys().find(|name| !there.contains_key(*name))?.clone();
        Some(UnlikeClusterings { name, where_it_is })
    };
    if let Some(unlike) = only(&there, &saved, "in the model").or_else(|| only(&saved, &there, "in what was saved")) {
        return Err(unlike);
    }
    each(model, |name, clustering| {
        if let Some(saved) = saved.remove(name) {
            clustering.go_on(saved);
        }
    });
    Ok(())
}

fn each<D: EdkmDevice>(model: &mut impl Parameters<D>, mut with: impl FnMut(&str, &Clustering)) {
    let Ok(()) = visit_clustered(model, |weight| {
        with(weight.name, weight.clustering);
        Ok::<(), Infallible>(())
    });
}
