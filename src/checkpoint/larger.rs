//! Models that are a part of a larger one, as the language model is of one that sees: taken out of it.
//!
//! ```text
//! config.json    {"architectures": [..ForConditionalGeneration], "text_config": {..}}    text_config's fields go up
//! tensors        model.language_model.layers.0...   ->   model.layers.0...
//!                vision tower and projector         left out
//! ```

use serde_json::Value as Json;

use super::{Stored, assemble::Draft, beside::alone, family::architecture};
use crate::{format::family::Family, size::counted};

/// Makes of the settings and tensors of a checkpoint those of its part of `family`, under the names that they have
/// alone, and fills in what the settings leave to the class of transformers.
pub fn take_out(draft: &mut Draft, family: &Family, config: &mut Json, all: &mut Vec<Stored>) {
    let about = &family.family;
    // Asked before settings are changed: `text_config` has another `architectures`, or none.
    let architecture = architecture(config);
    let is_part = architecture.is_some_and(|name| about.within.iter().any(|w| w == name));
    let class = architecture.map(str::to_owned);
    let Some(settings) = config.as_object_mut() else { return };
    if about.beyond {
        leave_beyond(draft, family, settings, all);
    }
    if is_part {
        if let Some(Json::Object(own)) = settings.remove("text_config") {
            settings.extend(own.into_iter().filter(|(_, value)| !value.is_null()));
        }
        let count = all.len();
        all.retain(|stored| !about.beside.iter().any(|begin| stored.name.starts_with(begin)));
        if count > all.len() {
            draft.notes.push(format!(
                "{} left out: llama.cpp keeps those in a file of their own (mmproj)",
                counted(count - all.len(), "vision tensor is", "vision tensors are")
            ));
        }
        let beside = draft.beside.iter_mut().map(|(name, ..)| name);
        all.iter_mut().map(|stored| &mut stored.name).chain(beside).for_each(alone);
    }
    // transformers writes only what differs from the class's own values, so that what is missing is known, and told.
    let mut taken = Vec::new();
    let own = class.and_then(|class| about.class_defaults.get(&class));
    for (name, value) in own.into_iter().flatten().chain(&about.defaults) {
        // Settings of rotary positions may be in an object of their own.
        let rope = name.starts_with("rope_") && settings.contains_key("rope_parameters");
        if !rope && settings.get(name).is_none_or(Json::is_null) {
            let Ok(value) = serde_json::to_value(value) else { continue };
            taken.push(format!("{name} {value}"));
            settings.insert(name.clone(), value);
        }
    }
    if !taken.is_empty() {
        let taken = taken.join(", ");
        draft
            .notes
            .push(format!("config.json leaves to transformers, and is taken from there: {taken}"));
    }
}

/// Leaves out the layers behind the last.
///
/// DeepSeek V3 counts 61 layers and has the tensors of a 62nd, which guesses the token after the next.
fn leave_beyond(
    draft: &mut Draft,
    family: &Family,
    settings: &serde_json::Map<String, Json>,
    all: &mut Vec<Stored>,
) {
    let names = family.sizes.get("n_layer").map(|size| size.config.as_slice()).unwrap_or_default();
    let layers = names.iter().find_map(|name| settings.get(name)?.as_u64());
    let layer = |name: &str| -> Option<u64> {
        let rest = name.strip_prefix("model.layers.")?;
        rest.split_once('.')?.0.parse().ok()
    };
    let count = all.len();
    let beyond = |name: &str| layers.zip(layer(name)).is_some_and(|(layers, n)| n >= layers);
    all.retain(|stored| !beyond(&stored.name));
    if count > all.len() {
        draft.notes.push(format!(
            "{} tensors of layers behind the last are left out: they guess more tokens at once",
            count - all.len()
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::format::catalog;

    #[test]
    fn settings_of_the_part_come_first_and_what_is_left_out_is_said() {
        let family = catalog::family("gemma3").unwrap();
        let mut config = json!({
            "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
            "text_config": {
                "hidden_size": 2560, "model_type": "gemma3_text", "num_hidden_layers": 34,
                "head_dim": 128, "rope_parameters": {"full_attention": {"rope_theta": 5.0}}
            }
        });
        let mut draft = Draft::default();
        take_out(&mut draft, family, &mut config, &mut Vec::new());
        assert_eq!(
            (&config["hidden_size"], &config["model_type"]),
            (&json!(2560), &json!("gemma3_text"))
        );
        assert_eq!((&config["head_dim"], &config["num_attention_heads"]), (&json!(128), &json!(8)));
        assert_eq!(config.get("rope_theta"), None);
        let [note] = &draft.notes[..] else { panic!("{:?}", draft.notes) };
        assert!(note.contains("num_attention_heads 8") && !note.contains("head_dim"), "{note}");
    }
}
