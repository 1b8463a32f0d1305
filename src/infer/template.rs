//! Chat templates: how a model was taught to tell who speaks.
//!
//! A file's template is a Jinja program. The few shapes that LLaMA models use are recognised by the
//! marks in it and written out here.
//!
//! ```text
//! ChatML    <|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n      and the model goes on
//! Llama 2   [INST] Hello [/INST]
//! ```

/// A way to write a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Template {
    /// `<|im_start|>user … <|im_end|>`
    ChatMl,
    /// `[INST] <<SYS>> … <</SYS>> … [/INST]`
    Llama2,
    /// `<|start_header_id|>user<|end_header_id|> … <|eot_id|>`
    Llama3,
    /// `[INST] … [/INST]`
    Mistral,
    /// `<|user|> … </s> <|assistant|>`
    Zephyr,
    /// `User: … Assistant:`, for models that were taught none.
    Plain,
}

impl Template {
    /// The template that `jinja` amounts to.
    pub fn of(jinja: Option<&str>) -> Template {
        let has = |mark: &str| jinja.is_some_and(|text| text.contains(mark));
        match () {
            () if has("<|im_start|>") => Template::ChatMl,
            () if has("<|start_header_id|>") => Template::Llama3,
            () if has("<<SYS>>") => Template::Llama2,
            () if has("[INST]") => Template::Mistral,
            () if has("<|user|>") => Template::Zephyr,
            () => Template::Plain,
        }
    }

    /// What the person says, up to where the model answers; `system` goes before the first turn.
    ///
    /// Names of control tokens in it are meant as such: it is encoded with `Special::Token`, whatever `text` holds
    /// included.
    pub fn turn(self, system: Option<&str>, text: &str) -> String {
        let before = |open: &str, close: &str| match system {
            Some(system) => format!("{open}{system}{close}"),
            None => String::new(),
        };
        match self {
            Template::ChatMl => format!(
                "{}<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n",
                before("<|im_start|>system\n", "<|im_end|>\n")
            ),
            Template::Llama2 => {
                format!("[INST] {}{text} [/INST]", before("<<SYS>>\n", "\n<</SYS>>\n\n"))
            }
            Template::Llama3 => {
                let head = |who: &str| format!("<|start_header_id|>{who}<|end_header_id|>\n\n");
                let system = before(&head("system"), "<|eot_id|>");
                format!("{system}{}{text}<|eot_id|>{}", head("user"), head("assistant"))
            }
            Template::Mistral => format!("[INST] {}{text} [/INST]", before("", "\n\n")),
            Template::Zephyr => {
                format!("{}<|user|>\n{text}</s>\n<|assistant|>\n", before("<|system|>\n", "</s>\n"))
            }
            Template::Plain => format!("{}User: {text}\nAssistant:", before("", "\n\n")),
        }
    }

    /// A text that ends the model's turn where it has no token for that.
    pub fn stop(self) -> Option<&'static str> {
        (self == Template::Plain).then_some("\nUser:")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_tell_the_template() {
        let of = |jinja| Template::of(Some(jinja));
        assert_eq!(of("{{'<|im_start|>' + message['role']}}"), Template::ChatMl);
        assert_eq!(of("{% if system %}<<SYS>>{% endif %}[INST]"), Template::Llama2);
        assert_eq!(of("[INST] {{ content }} [/INST]"), Template::Mistral);
        assert_eq!(Template::of(None), Template::Plain);
        let first = Template::Llama3.turn(Some("Be brief."), "Hi");
        assert!(
            first.starts_with("<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>")
        );
        assert!(first.ends_with("<|start_header_id|>assistant<|end_header_id|>\n\n"));
        assert_eq!(Template::Llama2.turn(None, "Hi"), "[INST] Hi [/INST]");
    }
}
