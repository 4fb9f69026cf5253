use serde_json::json;

use super::*;
use crate::data::Document;

/// Templates in the forms that published models have.
const CHAT_ML: &str = "{%- if messages[0]['role'] == 'system' -%}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) or (message.role == \"assistant\" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
";

const HEADERS: &str = "{{ bos_token }}{% if tools is not none %}{{ tools | tojson }}{% endif %}
{%- if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\\n\\n' ~ message['content'] | trim ~ '<|eot_id|>' }}
{%- endfor %}
{% if add_generation_prompt %}
<|start_header_id|>assistant<|end_header_id|>

{% endif %}";

const INSTRUCTIONS: &str = "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}";

/// Thoughts of earlier turns are left out.
const THOUGHTS: &str = "{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- if ns.last == -1 and message.role == 'user' %}{%- set ns.last = messages|length - 1 - loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and loop.index0 < ns.last and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<' + message.role + '>' + content + '<end>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<assistant>' }}{%- endif %}";

fn template(source: &str) -> ChatTemplate {
    let special = json!({"bos_token": "<s>", "eos_token": "</s>"});
    ChatTemplate::new(Path::new("chat.jinja"), source, special.as_object().unwrap().clone())
}

fn conversation() -> Vec<Message> {
    vec![
        Message::user(" Hi. "),
        Message::response("Hello!"),
        Message::user("2 + 2?"),
        Message::response("4"),
    ]
}

#[test]
fn templates_write_what_transformers_writes() {
    let all = conversation();
    assert_eq!(
        template(CHAT_ML).write(&all[..1], Goes::On).unwrap(),
        "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n Hi. <|im_end|>\n<|im_start|>assistant\n"
    );
    let with_system = [&[Message::system("Be brief.")], &all[..2]].concat();
    assert_eq!(
        template(CHAT_ML).write(&with_system, Goes::NoFurther).unwrap(),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi. <|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
    );
    assert_eq!(
        template(HEADERS).write(&all[..1], Goes::On).unwrap(),
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    assert_eq!(
        template(INSTRUCTIONS).write(&all, Goes::NoFurther).unwrap(),
        "<s>[INST] Hi. [/INST] Hello!</s>[INST] 2 + 2? [/INST] 4</s>"
    );
}

/// The text of a document, and of it what counts.
fn marked(document: &Document) -> (&str, Vec<&str>) {
    match document {
        Document::Marked { text, counted } => (text, counted.iter().map(|range| &text[range.clone()]).collect()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn responses_count_with_what_ends_them() {
    for (source, counted) in [
        (CHAT_ML, ["Hello!<|im_end|>", "4<|im_end|>"]),
        (HEADERS, ["Hello!<|eot_id|>", "4<|eot_id|>"]),
        (INSTRUCTIONS, [" Hello!</s>", " 4</s>"]),
    ] {
        let template = template(source);
        let documents = template.documents(&conversation().into()).unwrap();
        assert_eq!(documents.len(), 1);
        let (text, counts) = marked(&documents[0]);
        assert_eq!(text, template.write(&conversation(), Goes::NoFurther).unwrap());
        assert_eq!(counts, counted);
    }
}

#[test]
fn a_conversation_that_is_written_otherwise_as_it_goes_on_is_several_documents() {
    let template = template(THOUGHTS);
    let mut all = conversation();
    all[1].content = "<think>\nHm.\n</think>\n\nHello!".into();
    all.push(Message::user("Bye."));
    let documents = template.documents(&all.clone().into()).unwrap();
    let documents: Vec<_> = documents.iter().map(marked).collect();
    assert_eq!(
        documents,
        [
            (
                "<user> Hi. <end><assistant><think>\nHm.\n</think>\n\nHello!<end>",
                vec!["<think>\nHm.\n</think>\n\nHello!<end>"]
            ),
            (
                "<user> Hi. <end><assistant>Hello!<end><user>2 + 2?<end><assistant>4<end>",
                vec!["4<end>"]
            ),
        ]
    );
}

/// As where a template opens a thought for the model, or puts the system's message into the last question.
#[test]
fn a_response_counts_where_its_prompt_is_written_otherwise() {
    let source = "{% for m in messages %}{{ '<' + m.role + '>' + ('!' if loop.last and m.role == 'user' else '') + m.content + '<end>' }}{% endfor %}\
                  {% if add_generation_prompt %}<assistant><think>{% endif %}";
    let documents = template(source).documents(&conversation().into()).unwrap();
    let (text, counts) = marked(&documents[0]);
    assert_eq!(
        text,
        "<user> Hi. <end><assistant>Hello!<end><user>2 + 2?<end><assistant>4<end>"
    );
    assert_eq!(counts, ["Hello!<end>", "4<end>"]);
}

#[test]
fn what_ends_a_response_is_found() {
    assert_eq!(template(CHAT_ML).behind_response(None).unwrap(), "<|im_end|>");
    assert_eq!(template(INSTRUCTIONS).behind_response(None).unwrap(), "</s>");
    let with_system = template(
        "{% if messages[0].role != 'system' %}{{ raise_exception('none') }}{% endif %}{{ messages[2].content }}.",
    );
    assert!(with_system.behind_response(None).is_err());
    assert_eq!(with_system.behind_response(Some(&Message::system("a"))).unwrap(), ".");
}

#[test]
fn marks_of_what_is_learned_are_blocks_that_always_run() {
    let source = "{%- generation -%} a {% endgeneration %}{{ '{% generation' }}{% if x %}{% endif %}";
    let want = "{%- if true -%} a {% endif %}{{ '{% generation' }}{% if x %}{% endif %}";
    assert_eq!(without_generation_marks(source), want);
    assert_eq!(without_generation_marks("a {% generation"), "a {% if true");
}

#[test]
fn what_a_template_does_not_take_is_said() {
    let all = conversation();
    let message = |source: &str, messages: &[Message]| {
        let error = template(source).write(messages, Goes::On).unwrap_err();
        error.to_string()
    };
    let said = message(INSTRUCTIONS, &all[1..]);
    assert!(
        said.contains("chat.jinja") && said.contains("Roles must alternate"),
        "{said}"
    );
    let said = message("{% if %}", &all);
    assert!(said.contains("line 1"), "{said}");
    // neither without end, nor deeper than there is stack, nor more text than there is memory
    let said = message(
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        &all,
    );
    assert!(said.contains("fuel"), "{said}");
    message("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", &all);
    for endless in [
        "{{ 'a' * 10000000000000 }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    ] {
        let said = message(endless, &all);
        assert!(said.contains("fuel"), "{said}");
    }
    // which the longest record leaves alone
    let long = [Message::user("ab ".repeat(5 << 20))];
    let text = template(CHAT_ML).write(&long, Goes::On).unwrap();
    assert!(text.len() > 15 << 20);
    message("{{ messages[0].content.no_such() }}", &all);
    message("{{ strftime_now('%Y') }}", &all);
}

#[test]
fn templates_are_found_where_transformers_finds_them() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let said = || {
        let template = ChatTemplate::of_folder(dir.path()).unwrap()?;
        Some(template.write(&conversation()[..1], Goes::On).unwrap())
    };
    assert_eq!(said(), None);
    write(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<b>"}, "add_bos_token": true}"#,
    );
    assert_eq!(said(), None);
    let several = json!({
        "bos_token": {"content": "<b>"}, "eos_token": null,
        "chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ bos_token }}c{{ eos_token }}"}],
    });
    write("tokenizer_config.json", &several.to_string());
    assert_eq!(said().unwrap(), "<b>c");
    write("chat_template.json", r#"{"chat_template": "{{ bos_token }}j"}"#);
    assert_eq!(said().unwrap(), "<b>j");
    write("chat_template.jinja", "{{ bos_token }}{{ messages[0]['content'] }}\n");
    assert_eq!(said().unwrap(), "<b> Hi. ");
    for (name, text) in [
        ("chat_template.jinja", b"\xff".as_slice()),
        ("chat_template.json", b"[]".as_slice()),
        (
            "chat_template.json",
            br#"{"chat_template": [{"name": "other", "template": "x"}]}"#,
        ),
        ("chat_template.json", br#"{"chat_template": 3}"#),
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), text).unwrap();
        // which is no matter until it is used
        let template = ChatTemplate::of_folder(dir.path()).unwrap().unwrap();
        let error = template.write(&conversation(), Goes::On).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn an_empty_response_is_not_learned() {
    let mut all = conversation();
    all[1].content = " ".into();
    let documents = template(INSTRUCTIONS).documents(&all.clone().into()).unwrap();
    let (text, counts) = marked(&documents[0]);
    assert!(
        text.contains(" Hi.".trim()) && counts == [" 4</s>"],
        "{text}: {counts:?}"
    );
    all[3].content.clear();
    assert_eq!(template(INSTRUCTIONS).documents(&all.clone().into()).unwrap(), []);
    // a call says something
    all[3].more.insert("tool_calls".into(), json!([{"id": "x"}]));
    assert_eq!(template(INSTRUCTIONS).documents(&all.clone().into()).unwrap().len(), 1);
}

/// What Python's json.dumps writes of a call, its keys in the record's order.
#[test]
fn calls_are_written_as_in_transformers() {
    let call = r#"{"name": "get_weather", "arguments": {"unit": "C", "city": "L'Aquila é", "cmp": "a<b", "of": [1, 2.0, true, null], "no": {}}}"#;
    let mut message = Message::response("");
    let calls = serde_json::from_str(&format!(r#"[{{"function": {call}}}]"#)).unwrap();
    message.more.insert("tool_calls".into(), calls);
    message.more.insert("content".into(), Value::Null);
    let write = |source: &str| {
        template(source)
            .write(std::slice::from_ref(&message), Goes::NoFurther)
            .unwrap()
    };
    assert_eq!(write("{{ messages[0].tool_calls[0].function | tojson }}"), call);
    assert_eq!(
        write("{{ messages[0].tool_calls[0].function.arguments.of | tojson(indent=2) }}"),
        "[\n  1,\n  2.0,\n  true,\n  null\n]"
    );
    assert_eq!(
        write("{% for name, value in messages[0].tool_calls[0].function.arguments.items() %}{{ name }} {% endfor %}"),
        "unit city cmp of no "
    );
    // there is no text, which some templates ask for
    assert_eq!(write("{% if messages[0].content is none %}call{% endif %}"), "call");
}

#[test]
fn arguments_are_given_by_their_names() {
    let source = "{% if enable_thinking is defined and enable_thinking is false %}no thoughts{% else %}{{ bos_token }}{% endif %}";
    let plain = template(source);
    let arguments = [("enable_thinking".to_owned(), json!(false))].into_iter().collect();
    let write = |template: &ChatTemplate| template.write(&conversation()[..1], Goes::On).unwrap();
    assert_eq!(write(&plain), "<s>");
    assert_eq!(write(&plain.with_arguments(arguments)), "no thoughts");
}

/// What a conversation gives comes before what the folder and the program give, and all of it before nothing.
#[test]
fn a_conversation_has_tools_and_arguments_of_its_own() {
    let source = "{{ tools | length if tools else 'no' }}{{ mode }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let given = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
    let template = template(source).with_arguments(given(r#"{"mode": "-plain-", "tools": [1, 2, 3]}"#));
    let first = |conversation: Conversation| {
        let Document::Marked { text, .. } = template.documents(&conversation).unwrap().remove(0) else {
            panic!("marked")
        };
        text
    };
    let messages = vec![Message::user("a"), Message::response("b")];
    assert_eq!(first(messages.clone().into()), "3-plain-<user>a<assistant>b");
    let own = Conversation {
        given: given(r#"{"mode": "-own-", "tools": [1]}"#),
        messages,
    };
    assert_eq!(first(own), "1-own-<user>a<assistant>b");
}
