//! Chat templates against what Jinja2 rendered, and against files that are not what they should be.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use super::*;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden").join(path)
}

fn golden_json(path: &str) -> Vec<Json> {
    serde_json::from_slice(&fs::read(golden(path)).unwrap()).unwrap()
}

/// The request that a recorded case describes.
fn request_of(case: &Json) -> ChatRequest {
    let list = |key: &str| case.get(key).and_then(Json::as_array).cloned().unwrap_or_default();
    let flag = |key: &str| case.get(key).and_then(Json::as_bool);
    ChatRequest {
        messages: list("messages"),
        tools: list("tools"),
        add_generation_prompt: flag("add_generation_prompt").unwrap_or(true),
        enable_thinking: flag("enable_thinking"),
        add_vision_id: flag("add_vision_id").unwrap_or(false),
    }
}

/// The template of a folder with these files; the folder's name is cut out of messages.
fn load(files: &[(&str, &str)]) -> Result<ChatTemplate, String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("q35-chat-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = std::env::temp_dir().join(name);
    fs::create_dir_all(&dir).unwrap();
    for (name, text) in files {
        fs::write(dir.join(name), text).unwrap();
    }
    let result = ChatTemplate::load(&dir);
    fs::remove_dir_all(&dir).unwrap();
    let folder = dir.display().to_string();
    result.map_err(|e| e.to_string().replace(&format!("{folder}/"), "").replace(&folder, "DIR"))
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::parse(Path::new("t.jinja"), source.into()).unwrap()
}

fn rendered(source: &str) -> String {
    template(source).render(&ChatRequest::default().message("user", "Hi")).unwrap()
}

#[test]
fn the_tiny_checkpoint_s_conversations_render_to_the_recorded_prompts() {
    let template = ChatTemplate::load(&golden("checkpoints/tiny-moe")).unwrap();
    let chats = golden_json("checkpoints/tiny-moe/golden/chats.json");
    assert!(!chats.is_empty());
    for chat in chats {
        let prompt = template.render(&request_of(&chat)).unwrap();
        assert_eq!(prompt, chat["prompt"].as_str().unwrap(), "{}", chat["name"]);
    }
}

#[test]
fn both_templates_render_every_recorded_case_as_jinja2_does() {
    let cases = golden_json("templates/rendered.json");
    assert!(cases.len() > 100);
    for case in cases {
        let path = golden("templates").join(case["template"].as_str().unwrap());
        let template = ChatTemplate::parse(&path, fs::read_to_string(&path).unwrap()).unwrap();
        let name = &case["name"];
        match (template.render(&request_of(&case)), case.get("error")) {
            (Ok(prompt), None) => assert_eq!(prompt, case["prompt"].as_str().unwrap(), "{name}"),
            (Err(ChatError::Refused { reason }), Some(error)) => {
                assert_eq!(reason, error.as_str().unwrap(), "{name}")
            }
            (other, expected) => panic!("{name}: {other:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn arguments_may_be_the_text_of_an_object() {
    let template = ChatTemplate::load(&golden("checkpoints/tiny-moe")).unwrap();
    let with = |arguments: Json, wrapped: bool| {
        let function = json!({"name": "f", "arguments": arguments});
        let call =
            if wrapped { json!({"type": "function", "function": function}) } else { function };
        let mut request = ChatRequest::default().message("user", "x");
        request.messages.push(json!({"role": "assistant", "content": "", "tool_calls": [call]}));
        template.render(&request).map_err(|e| e.to_string())
    };
    let object = json!({"b": 1.0, "a": [true, null], "c": "é"});
    for wrapped in [true, false] {
        let expected = with(object.clone(), wrapped).unwrap();
        assert!(
            expected.contains("<parameter=b>\n1.0\n</parameter>\n<parameter=a>\n[true, null]\n")
        );
        assert_eq!(with(json!(object.to_string()), wrapped).unwrap(), expected);
    }
    let error = with(json!([1]), true).unwrap_err();
    assert_eq!(error, "the arguments of tool call 0 in message 1 are [1], expected a JSON object");
    let error = with(json!("{\"a\": "), false).unwrap_err();
    assert!(
        error.starts_with(
            "the arguments of tool call 0 in message 1 are a text that is not one (EOF"
        ),
        "{error}"
    );
}

#[test]
fn values_print_as_in_python() {
    assert_eq!(
        rendered("{{ true }} {{ none }} {{ 1e16 }} {{ 2.0 }} {{ missing }}|{{ [1, 'a'] }}"),
        "True None 1e+16 2.0 |[1, 'a']"
    );
    assert_eq!(
        rendered("{{ true|string }} {{ none|string ~ 1 }} {{ 1e-7|string }}"),
        "True None1 1e-07"
    );
    assert_eq!(
        rendered("{{ {'b': [1, none], 'a': '<é>'}|tojson }}"),
        r#"{"b": [1, null], "a": "<é>"}"#
    );
    assert_eq!(rendered("{{ 'é'|tojson(ensure_ascii=false) }}"), "\"é\"");
}

#[test]
fn the_language_is_what_templates_need() {
    assert_eq!(
        rendered("{% for x in [1, 2, 3][::-1] %}{{ x }}{% endfor %} {{ [1, 2, 3][-1] }}"),
        "321 3"
    );
    assert_eq!(
        rendered("{{ 'a</t>b</t>c'.split('</t>')[-1] }} {{ '\n\nx\n'.lstrip('\n') }}"),
        "c x\n"
    );
    assert_eq!(
        rendered("{{ '\x1f a '.strip() }}|{{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}|"),
        "a|a | a|"
    );
    assert_eq!(
        rendered("{% for k, v in {'z': 1, 'a': 2}|items %}{{ k }}{{ v }}{% endfor %}"),
        "z1a2"
    );
    assert_eq!(
        rendered(
            "{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}"
        ),
        "13"
    );
    assert_eq!(
        rendered("  {% set ns = namespace(n=0) %}\n  {% set ns.n = 5 %}\n{{ ns.n }}\n"),
        "5"
    );
    assert_eq!(
        rendered(
            "{{ messages[0].nothing is undefined }} {{ tools is none }} {{ enable_thinking is defined }}"
        ),
        "True True False"
    );
}

#[test]
fn the_template_may_come_from_the_tokenizer_config() {
    let one = r#"{"chat_template": "one {{ eos_token }}", "eos_token": {"content": "<e>"}}"#;
    let named = r#"{"chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "named {{ bos_token }}"}], "bos_token": "<b>"}"#;
    let prompt =
        |files: &[(&str, &str)]| load(files).unwrap().render(&ChatRequest::default()).unwrap();
    assert_eq!(prompt(&[("tokenizer_config.json", one)]), "one <e>");
    assert_eq!(prompt(&[("tokenizer_config.json", named)]), "named <b>");
    assert_eq!(
        prompt(&[("tokenizer_config.json", one), ("chat_template.jinja", "own {{ eos_token }}\n")]),
        "own <e>"
    );
}

#[test]
fn a_checkpoint_without_a_usable_template_is_an_error() {
    let missing = "`DIR` has no chat template, expected `chat_template.jinja` or `chat_template` in `tokenizer_config.json`";
    assert_eq!(load(&[]).unwrap_err(), missing);
    assert_eq!(
        load(&[("tokenizer_config.json", r#"{"chat_template": []}"#)]).unwrap_err(),
        missing
    );
    let error = load(&[("tokenizer_config.json", r#"{"chat_template": 5}"#)]).unwrap_err();
    assert!(error.starts_with("`tokenizer_config.json` is not a tokenizer config: "), "{error}");
    let error = load(&[("chat_template.jinja", "a\n{% if %}")]).unwrap_err();
    assert!(
        error
            .starts_with("line 2 of the chat template in `chat_template.jinja` cannot be parsed: "),
        "{error}"
    );
}

#[test]
fn a_template_that_fails_says_where_and_why() {
    let fail = |source| template(source).render(&ChatRequest::default()).unwrap_err().to_string();
    let error = fail("a\n{{ missing.thing }}");
    assert!(
        error.starts_with("line 2 of the chat template in `t.jinja` fails: undefined value"),
        "{error}"
    );
    let error = fail("{{ 'a' + 1 }}");
    assert!(
        error.starts_with("line 1 of the chat template in `t.jinja` fails: invalid operation"),
        "{error}"
    );
    let error = fail("{{ 1|tojson(indent=2) }}");
    assert!(error.contains("indent"), "{error}");
    let error = fail("{% macro m() %}{{ raise_exception('no ' ~ 1) }}{% endmacro %}{{ m() }}");
    assert_eq!(error, "the chat template refuses the conversation: no 1");
}

#[test]
fn templates_cut_anywhere_never_panic() {
    let whole = fs::read_to_string(golden("templates/chat_template.jinja")).unwrap();
    let request = ChatRequest::default().message("user", "x").message("assistant", "y");
    let mut parsed = 0;
    for end in (0..whole.len()).step_by(61) {
        if let Ok(template) = ChatTemplate::parse(Path::new("t"), whole[..end].into()) {
            parsed += 1;
            _ = template.render(&request);
        }
    }
    assert!(parsed > 0, "some prefixes are templates");
}
