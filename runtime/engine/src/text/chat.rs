//! Conversations to prompts, with the chat template that comes with the checkpoint (spec 17).
//!
//! The template is a Jinja2 program that was run by Python when the model was trained. It is
//! rendered here by minijinja with the settings that transformers uses (`trim_blocks`,
//! `lstrip_blocks`, no escaping), and whatever Python and Rust would print differently goes
//! through `python.rs`. Recorded renderings of Jinja2 itself hold the two together.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, context};
use minijinja_contrib::pycompat;
use serde_json::{Map, Value as Json};

use super::file::read_at_most;
use super::python::{self, Ends};
use super::tokenizer_config::{TokenizerConfig, TokenizerConfigError};

/// The published templates have 8 KB.
const LARGEST_FILE: u64 = 16 << 20;

const TEMPLATE: &str = "chat_template";

/// A chat template cannot be used, or refuses a conversation.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// A file is there but cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },

    /// The checkpoint has no template: it is no chat model.
    #[error("`{}` has no chat template, expected `chat_template.jinja` or `chat_template` in `tokenizer_config.json`", dir.display())]
    Missing { dir: PathBuf },

    /// `tokenizer_config.json` cannot be used.
    #[error(transparent)]
    Config(#[from] TokenizerConfigError),

    /// The template is not valid Jinja.
    #[error("line {line} of the chat template in `{}` cannot be parsed: {reason}", path.display())]
    Syntax { path: PathBuf, line: usize, reason: String },

    /// The template itself says what is wrong with the conversation.
    #[error("the chat template refuses the conversation: {reason}")]
    Refused { reason: String },

    /// The template fails on this conversation.
    #[error("line {line} of the chat template in `{}` fails: {reason}", path.display())]
    Render { path: PathBuf, line: usize, reason: String },

    /// The arguments of a tool call are not named values.
    #[error(
        "the arguments of tool call {call} in message {message} are {found}, expected a JSON object"
    )]
    Arguments { message: usize, call: usize, found: String },
}

/// What to render. Messages and tools have the form of the OpenAI interface.
///
/// ```
/// use q35_runtime::text::ChatRequest;
///
/// let mut request = ChatRequest::default().message("system", "Be brief.").message("user", "Why is the sky blue?");
/// request.enable_thinking = Some(false);
/// assert_eq!(request.messages.len(), 2);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// Objects with `role`, `content` and, by role, `reasoning_content` and `tool_calls`. The
    /// `arguments` of a call may be an object or its JSON text.
    pub messages: Vec<Json>,
    /// Descriptions of the functions that the model may call, dumped as they are.
    pub tools: Vec<Json>,
    /// End with the beginning of the assistant's turn; on by default.
    pub add_generation_prompt: bool,
    /// Think before answering; none leaves it to the template's own default.
    pub enable_thinking: Option<bool>,
    /// Number images and videos in the text.
    pub add_vision_id: bool,
}

impl Default for ChatRequest {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            tools: Vec::new(),
            add_generation_prompt: true,
            enable_thinking: None,
            add_vision_id: false,
        }
    }
}

impl ChatRequest {
    /// With one more message of plain text.
    #[must_use]
    pub fn message(mut self, role: &str, content: &str) -> Self {
        self.messages.push(serde_json::json!({"role": role, "content": content}));
        self
    }
}

/// A checkpoint's chat template, parsed.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
}

impl ChatTemplate {
    /// Read `chat_template.jinja` in `dir`, or else `chat_template` of its
    /// `tokenizer_config.json`: a text, or a list of named ones with a `default`.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be read or parsed; see [`ChatError`].
    pub fn load(dir: &Path) -> Result<Self, ChatError> {
        let config = TokenizerConfig::load(dir)?;
        let path = dir.join("chat_template.jinja");
        let (path, source) = match read_at_most(&path, LARGEST_FILE).and_then(utf8) {
            Ok(source) => (path, source),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let source = config.chat_template();
                let source = source.ok_or_else(|| ChatError::Missing { dir: dir.into() })?;
                (TokenizerConfig::path(dir), source.to_owned())
            }
            Err(source) => return Err(ChatError::Read { path, source }),
        };
        let mut template = Self::parse(&path, source)?;
        template.name_special_tokens(&config);
        Ok(template)
    }

    /// The prompt of a conversation.
    ///
    /// # Errors
    ///
    /// [`ChatError::Refused`] with the template's own words for a conversation that it does not
    /// take (such as one without a user message), [`ChatError::Arguments`] and [`ChatError::Render`].
    pub fn render(&self, request: &ChatRequest) -> Result<String, ChatError> {
        let messages = parsed_arguments(&request.messages)?;
        let tools = match request.tools.as_slice() {
            [] => Value::from(()),
            tools => tools.iter().map(value_of).collect(),
        };
        let context = context! {
            messages => messages.iter().map(value_of).collect::<Value>(),
            tools => tools,
            add_generation_prompt => request.add_generation_prompt,
            add_vision_id => request.add_vision_id,
            // An option that is not given must be undefined, not none.
            enable_thinking => request.enable_thinking.map_or(Value::UNDEFINED, Value::from),
        };
        let template = self.environment.get_template(TEMPLATE).expect("`parse` has added it");
        // minijinja 3.0 panics where a template reverses an empty list (`[][::-1]`).
        let rendered = catch_unwind(AssertUnwindSafe(|| template.render(context)));
        let Ok(rendered) = rendered else {
            let reason = "the template engine failed".into();
            return Err(ChatError::Render { path: self.path.clone(), line: 0, reason });
        };
        rendered.map_err(|error| match raised(&error) {
            Some(reason) => ChatError::Refused { reason },
            None => ChatError::Render {
                path: self.path.clone(),
                line: error.line().unwrap_or(0),
                reason: reason_of(&error),
            },
        })
    }

    fn parse(path: &Path, source: String) -> Result<Self, ChatError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the usual delimiters are valid"));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_formatter(|out, _, value| Ok(out.write_str(&python::str_of(value)?)?));
        environment.set_unknown_method_callback(method);
        environment.add_filter("tojson", tojson);
        environment.add_filter("string", python::str_of);
        environment.add_filter("trim", |value: &Value, chars: Option<&str>| {
            Ok::<_, Error>(python::strip(&python::str_of(value)?, chars, Ends::Both).to_owned())
        });
        environment.add_function("raise_exception", |reason: &Value| {
            let raised = Raised(python::str_of(reason)?);
            Err::<Value, _>(Error::new(ErrorKind::InvalidOperation, "raised").with_source(raised))
        });
        environment.add_template_owned(TEMPLATE, source).map_err(|e| ChatError::Syntax {
            path: path.into(),
            line: e.line().unwrap_or(0),
            reason: reason_of(&e),
        })?;
        Ok(Self { environment, path: path.into() })
    }

    fn name_special_tokens(&mut self, config: &TokenizerConfig) {
        let tokens = [
            ("bos_token", &config.bos_token),
            ("eos_token", &config.eos_token),
            ("pad_token", &config.pad_token),
            ("unk_token", &config.unk_token),
        ];
        for (name, token) in tokens {
            if let Some(token) = token {
                self.environment.add_global(name, token.text().to_owned());
            }
        }
    }
}

/// The template's own `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raised(error: &Error) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Raised(reason)) = error.downcast_ref() {
            return Some(reason.clone());
        }
        cause = error.source();
    }
    None
}

/// Without minijinja's own mention of the place, which our error names better.
fn reason_of(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

fn utf8(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// `tojson` as transformers defines it. The one option that changes nothing is allowed.
fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        let reason = "`tojson` with ensure_ascii=true is not supported";
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    options.assert_all_used()?;
    python::json_of(value)
}

/// Methods of Python's strings and dicts.
fn method(state: &mut State, on: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let ends = match name {
        "strip" => Some(Ends::Both),
        "lstrip" => Some(Ends::Left),
        "rstrip" => Some(Ends::Right),
        _ => None,
    };
    match (ends, on.as_str(), args) {
        (Some(ends), Some(text), []) if on.kind() == ValueKind::String => {
            Ok(Value::from(python::strip(text, None, ends)))
        }
        _ => pycompat::unknown_method_callback(state, on, name, args),
    }
}

/// The messages with the arguments of every tool call as an object, which is what templates
/// iterate over; clients of the OpenAI interface send them as JSON text.
fn parsed_arguments(messages: &[Json]) -> Result<Vec<Json>, ChatError> {
    let mut messages = messages.to_vec();
    for (at, message) in messages.iter_mut().enumerate() {
        let Some(calls) = message.get_mut("tool_calls").and_then(Json::as_array_mut) else {
            continue;
        };
        for (call, tool_call) in calls.iter_mut().enumerate() {
            let holder = match tool_call.get("function") {
                Some(_) => &mut tool_call["function"],
                None => tool_call,
            };
            let Some(arguments) = holder.get_mut("arguments") else {
                continue;
            };
            if let Json::String(text) = arguments {
                let object: Result<Map<String, Json>, _> = serde_json::from_str(text);
                *arguments = Json::Object(object.map_err(|e| ChatError::Arguments {
                    message: at,
                    call,
                    found: format!("a text that is not one ({e})"),
                })?);
            } else if !arguments.is_object() {
                let found = arguments.to_string();
                return Err(ChatError::Arguments { message: at, call, found });
            }
        }
    }
    Ok(messages)
}

fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), _, _) => Value::from(n),
            (_, Some(n), _) => Value::from(n),
            (_, _, n) => Value::from(n.expect("a JSON number is one of the three")),
        },
        Json::String(s) => Value::from(s.as_str()),
        Json::Array(items) => items.iter().map(value_of).collect(),
        Json::Object(pairs) => {
            Value::from_pairs(pairs.iter().map(|(k, v)| (k.as_str(), value_of(v))))
        }
    }
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
