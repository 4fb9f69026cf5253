//! `edkm chat` and `edkm generate`: settings reach the sampler, text streams, conversations are remembered.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::common::{assert_refused, edkm, json, Workshop};

fn chat(model: &Path, instructions: impl AsRef<[u8]>, more: &[&str]) -> Output {
    let mut command = edkm();
    command
        .arg("chat")
        .arg(model)
        .args(["--tokens", "12", "--json"])
        .args(more);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    match child.stdin.take().unwrap().write_all(instructions.as_ref()) {
        // who is refused may be gone before anything is said
        Err(gone) if gone.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.unwrap(),
    }
    child.wait_with_output().unwrap()
}

fn generate(model: &Path, more: &[&str]) -> serde_json::Value {
    let mut command = edkm();
    command.arg("generate").arg(model);
    command
        .args(["--prompt", "Once upon a time", "--tokens", "24", "--json"])
        .args(more);
    json(&command.output().unwrap())
}

/// As instructions are in training.
#[test]
fn a_conversation_begins_as_the_tokenizer_of_the_model_has_it() {
    let shop = Workshop::new();
    let config = shop.model().join("tokenizer_config.json");
    let mut settings: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    let mut prompt_tokens = |adds_begin: bool| {
        settings["add_bos_token"] = adds_begin.into();
        std::fs::write(&config, settings.to_string()).unwrap();
        let turns = json(&chat(&shop.model(), "Tell a story.\n", &["--temperature", "0"]));
        turns["turns"][0]["prompt_tokens"].as_u64().unwrap()
    };
    assert_eq!(prompt_tokens(true), prompt_tokens(false) + 1);
}

#[test]
fn a_conversation_is_remembered_until_it_is_cleared() {
    let shop = Workshop::new();
    let turns = |instructions: &str, more: &[&str]| {
        let figures = json(&chat(&shop.model(), instructions, more));
        assert!(figures["tokens_per_second"].as_f64().unwrap() > 0.0);
        assert!(figures["cache_bytes"].as_u64().unwrap() > 0 && figures["weight_bytes"].as_u64().unwrap() > 0);
        figures["turns"].as_array().unwrap().clone()
    };
    let greedy = ["--temperature", "0"];
    let twice = turns("\u{feff}Tell a story.\r\n\nTell a story.\n", &greedy);
    assert_eq!(twice.len(), 2);
    assert_eq!(twice[0]["instruction"], "Tell a story.");
    // the second turn reads only what is new: the template's preamble is not repeated
    assert!(twice[1]["prompt_tokens"].as_u64().unwrap() < twice[0]["prompt_tokens"].as_u64().unwrap());
    // what is new: the last token, the one that ends a response in training, and the instruction
    assert_eq!(twice[0]["stop"], "token_limit");
    let tokenizer = edkm_train::Tokenizer::from_dir(shop.model()).unwrap();
    let asked = tokenizer
        .encode("\n\n### Instruction:\nTell a story.\n\n### Response:")
        .unwrap();
    assert_eq!(twice[1]["prompt_tokens"].as_u64().unwrap(), 2 + asked.len() as u64);
    let cut = chat(&shop.model(), "Tell a story.\n", &greedy);
    assert!(String::from_utf8_lossy(&cut.stderr).contains("ends here after 12 tokens: give more with --tokens"));
    let cleared = turns(
        "Tell a story.\n/help\n/clear\nTell a story.\n/quit\nTell a story.\n",
        &greedy,
    );
    assert_eq!(cleared.len(), 2);
    assert_eq!(cleared[0]["response"], cleared[1]["response"]);
    assert_eq!(cleared[0]["response"], twice[0]["response"]);
    let sampled = turns(
        "Tell a story.\n/clear\nTell a story.\nTell a story.\n",
        &["--temperature", "2"],
    );
    assert_eq!(sampled[0]["response"], sampled[1]["response"]);
    assert_ne!(sampled[1]["response"], sampled[2]["response"]);
    // a context without room for both turns begins anew, to the same response
    let all = twice[0]["prompt_tokens"].as_u64().unwrap() + 12 + 2;
    let small = chat(
        &shop.model(),
        "Tell a story.\nTell a story.\n",
        &["--temperature", "0", "--context", &all.to_string()],
    );
    assert!(String::from_utf8_lossy(&small.stderr).contains("first turns are forgotten"));
    assert_eq!(json(&small)["turns"][1]["response"], twice[0]["response"]);
}

#[test]
fn a_conversation_is_held_in_the_chat_template_of_the_model() {
    let shop = Workshop::new();
    let template = "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' and m.content != 'Be kind.' %}{{ raise_exception('no such system') }}{% endif %}\
                    {{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'Once upon a time' }}{% endif %}";
    std::fs::write(shop.model().join("chat_template.jinja"), template).unwrap();
    let greedy = ["--temperature", "0"];
    let told = |prompt: &str| {
        let mut command = edkm();
        command
            .arg("generate")
            .arg(shop.model())
            .args(["--prompt", prompt, "--tokens", "12", "--json"]);
        json(&command.args(greedy).output().unwrap())["text"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let system = [&greedy[..], &["--system", "Be kind."]].concat();
    let figures = json(&chat(&shop.model(), "A dog.\nA cat.\n", &system));
    let turn = |at: usize| figures["turns"][at]["response"].as_str().unwrap();
    assert_eq!(turn(0), told("system: Be kind.\nuser: A dog.\nOnce upon a time"));
    let both = format!(
        "system: Be kind.\nuser: A dog.\nassistant: {}\nuser: A cat.\nOnce upon a time",
        turn(0)
    );
    assert_eq!(turn(1), told(&both));
    // what both turns begin with is not read again
    let read = |at: usize| figures["turns"][at]["prompt_tokens"].as_u64().unwrap();
    assert!(read(1) < read(0) + 12 + 40, "{figures}");

    // of three turns, where two have room, the first is forgotten
    let room = (read(0) + 12 + read(1) + 12 + 4).to_string();
    let small = chat(
        &shop.model(),
        "A dog.\nA cat.\nA bird.\n",
        &[&system[..], &["--context", &room]].concat(),
    );
    assert_eq!(
        String::from_utf8_lossy(&small.stderr)
            .matches("first turns are forgotten")
            .count(),
        1
    );
    let small = json(&small);
    assert_eq!(small["turns"][1], figures["turns"][1]);
    let rest = format!(
        "system: Be kind.\nuser: A cat.\nassistant: {}\nuser: A bird.\nOnce upon a time",
        turn(1)
    );
    assert_eq!(small["turns"][2]["response"], told(&rest));

    // values of the template's own
    let named = template.replace("'Once upon a time'", "beginning | default('Once upon a time')");
    std::fs::write(shop.model().join("chat_template.jinja"), named).unwrap();
    let given = json(&chat(
        &shop.model(),
        "A dog.\n",
        &[&greedy[..], &["--template-arg", "beginning=There was"]].concat(),
    ));
    assert_eq!(
        given["turns"][0]["response"].as_str().unwrap(),
        told("user: A dog.\nThere was")
    );
    std::fs::write(shop.model().join("chat_template.jinja"), template).unwrap();

    let output = chat(&shop.model(), "A dog.\n", &["--system", "Be rude."]);
    assert_refused(&output, &["chat_template.jinja", "no such system"], &shop.out());
    let output = chat(&shop.model(), "A dog.\n", &["--template-arg", "thoughts"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("NAME=VALUE"));
    // in Alpaca's template it comes in front of the first instruction
    std::fs::remove_file(shop.model().join("chat_template.jinja")).unwrap();
    let output = chat(&shop.model(), "A dog.\n", &["--template-arg", "thoughts=1"]);
    assert_refused(&output, &["tokenizer.json", "no chat template"], &shop.out());
    let plain = chat(&shop.model(), "A dog.\n", &greedy);
    assert!(String::from_utf8_lossy(&plain.stderr).contains("no chat template"));
    let plain = json(&plain);
    let with_system = json(&chat(&shop.model(), "A dog.\n", &system));
    assert!(plain["turns"][0]["prompt_tokens"].as_u64() < with_system["turns"][0]["prompt_tokens"].as_u64());
}

#[test]
fn a_response_ends_with_what_ends_a_turn_in_the_template() {
    let shop = Workshop::new();
    let write = |template: &str| std::fs::write(shop.model().join("chat_template.jinja"), template).unwrap();
    let greedy = ["--temperature", "0"];
    let turns = |instructions: &str| json(&chat(&shop.model(), instructions, &greedy))["turns"].clone();
    write("{{ bos_token }}{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ '\n' }}{% endif %}{% endfor %}");
    let whole = turns("Once upon a time\n");
    assert!(whole[0]["response"].as_str().unwrap().contains('a'), "{whole}");
    // which may be no token of its own
    write("{{ bos_token }}{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ 'a\n' }}{% endif %}{% endfor %}");
    let ended = turns("Once upon a time\n/exit\nOnce upon a time\n");
    assert_eq!(ended.as_array().unwrap().len(), 1, "{ended}");
    assert_eq!(ended[0]["stop"], "stop_string");
    assert!(!ended[0]["response"].as_str().unwrap().contains('a'), "{ended}");
    // a conversation that it does not take any further
    write("{% if messages|length > 2 %}{{ raise_exception('only one question') }}{% endif %}{{ messages[0].content }}");
    let output = chat(&shop.model(), "Once upon a time\nAnd then?\n", &greedy);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no response: "));
    let shown = String::from_utf8(output.stdout).unwrap();
    let figures: serde_json::Value = serde_json::from_str(shown.lines().last().unwrap()).unwrap();
    assert_eq!(
        (figures["turns"].as_array().unwrap().len(), &figures["unanswered"]),
        (1, &1.into())
    );
}

#[test]
fn conversations_train_in_the_chat_template_of_the_model() {
    let shop = Workshop::new();
    let template = "{% for m in messages %}{{ '<s>' + m.role + ': ' + m.content + '</s>' }}{% endfor %}";
    std::fs::write(shop.model().join("chat_template.jinja"), template).unwrap();
    let record = r#"{"messages": [{"role": "user", "content": "Tell of a dog."}, {"role": "assistant", "content": "Once upon a time there was a dog named Tim."}]}"#;
    let data = shop.path("conversations.jsonl");
    std::fs::write(&data, format!("{record}\n").repeat(40)).unwrap();
    let mut command = edkm();
    command
        .arg("finetune")
        .arg(shop.model())
        .arg("--data")
        .arg(&data)
        .arg("--out")
        .arg(shop.out());
    command.args(["--steps", "2", "--seq", "32", "--batch", "2", "--json"]);
    let figures = json(&command.output().unwrap());
    assert!(figures["perplexity_after"].as_f64().unwrap().is_finite());
    // it goes with the model
    assert_eq!(
        std::fs::read_to_string(shop.out().join("chat_template.jinja")).unwrap(),
        template
    );
}

#[test]
fn an_instruction_beyond_the_context_is_refused() {
    let shop = Workshop::new();
    let output = chat(&shop.model(), "Tell a story.\n", &["--context", "8"]);
    assert_refused(&output, &["context", "8"], &shop.out());
}

#[test]
fn an_instruction_that_cannot_be_read_is_reported_and_the_next_one_answered() {
    let shop = Workshop::new();
    let long = "Tell a long story of a dog. ".repeat(100);
    let instructions = format!("Tell a story.\n{long}\nTell a story.\n");
    let instructions = [instructions.as_bytes(), b"Tell \xff.\n"].concat();
    let output = chat(&shop.model(), &instructions, &["--temperature", "0"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("context of 512") && said.contains("takes no more"),
        "{said}"
    );
    assert!(!said.contains("longer context"), "{said}");
    let shown = String::from_utf8(output.stdout).unwrap();
    let figures: serde_json::Value = serde_json::from_str(shown.lines().last().unwrap()).unwrap();
    assert_eq!(figures["turns"].as_array().unwrap().len(), 2);
    assert_eq!(figures["unanswered"], 2);
    assert!(said.contains("not UTF-8"), "{said}");
    // the conversation goes on where it was: the template's preamble is not read again
    let read = |turn: usize| figures["turns"][turn]["prompt_tokens"].as_u64().unwrap();
    assert!(read(1) < read(0), "{figures}");
    // where there is more, that is said
    let output = chat(&shop.model(), format!("{long}\n"), &["--context", "200"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("longer context") && said.contains("up to 512"), "{said}");
}

#[test]
fn a_prompt_that_is_too_long_is_refused_before_it_is_shown() {
    let shop = Workshop::new();
    let prompt = "Once upon a time there was a dog. ".repeat(100);
    let mut command = edkm();
    let output = command.arg("generate").arg(shop.model()).args(["--prompt", &prompt]);
    let output = output.output().unwrap();
    assert_refused(&output, &["the prompt has", "at most 512"], &shop.out());
    assert!(output.stdout.is_empty());
}

#[test]
fn why_a_text_ended_is_said() {
    let shop = Workshop::new();
    let stop = |more: &[&str]| generate(&shop.model(), &[&["--temperature", "0"], more].concat())["stop"].clone();
    assert_eq!(stop(&[]), "token_limit");
    assert_eq!(stop(&["--stop", "a"]), "stop_string");
    // a model of few positions, whose stories do not end within them
    let config = std::fs::read_to_string(shop.config()).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["max_position_embeddings"] = 16.into();
    std::fs::write(shop.config(), config.to_string()).unwrap();
    let mut command = edkm();
    command.arg("generate").arg(shop.model());
    command.args(["--prompt", "Once upon a time", "--temperature", "0", "--json"]);
    let output = command.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("all that the model takes"));
    assert_eq!(json(&output)["stop"], "context_limit");
    // every token ends a text, by either file
    let every: Vec<u32> = (0..512).collect();
    let generation = shop.model().join("generation_config.json");
    std::fs::write(&generation, serde_json::json!({"eos_token_id": every}).to_string()).unwrap();
    assert_eq!(stop(&[]), "end_token");
    std::fs::remove_file(generation).unwrap();
    config["eos_token_id"] = (0..512).collect::<Vec<u32>>().into();
    std::fs::write(shop.config(), config.to_string()).unwrap();
    assert_eq!(stop(&[]), "end_token");
}

#[test]
fn every_setting_of_sampling_changes_the_text() {
    let shop = Workshop::new();
    let text = |more: &[&str]| generate(&shop.model(), more)["text"].as_str().unwrap().to_owned();
    let plain = text(&["--temperature", "1.5"]);
    assert_eq!(plain, text(&["--temperature", "1.5"]));
    assert_ne!(plain, text(&["--temperature", "1.5", "--seed", "1"]));
    let greedy = text(&["--temperature", "0"]);
    assert_eq!(greedy, text(&["--temperature", "1.5", "--top-k", "1"]));
    assert_eq!(greedy, text(&["--temperature", "1.5", "--top-p", "0.000001"]));
    assert_eq!(greedy, text(&["--temperature", "1.5", "--min-p", "1"]));
    assert_ne!(greedy, text(&["--temperature", "0", "--repetition-penalty", "5"]));
    // what the model's folder says where nothing is given
    let generation = shop.model().join("generation_config.json");
    std::fs::write(&generation, r#"{"do_sample": true, "temperature": 1.5, "top_k": 1}"#).unwrap();
    assert_eq!(text(&[]), greedy);
    assert_eq!(text(&["--top-k", "512", "--top-p", "0.95"]), plain);
    std::fs::remove_file(generation).unwrap();
    // ends before the stop string, which is not part of the text
    let word = greedy.split_whitespace().nth(3).unwrap();
    let stopped = text(&["--temperature", "0", "--stop", word]);
    assert_eq!(stopped, greedy[..greedy.find(word).unwrap()]);
}

#[test]
fn a_cache_of_half_precision_takes_half_the_memory() {
    let shop = Workshop::new();
    let [full, half] =
        ["f32", "f16"].map(|numbers| generate(&shop.model(), &["--temperature", "0", "--cache", numbers]));
    assert_eq!(
        full["cache_bytes"].as_u64().unwrap(),
        2 * half["cache_bytes"].as_u64().unwrap()
    );
    assert!(full["cache_bytes"].as_u64().unwrap() > 0);
    // 11 bits of keys and values leave the likeliest first words what they are
    let first = |figures: &serde_json::Value| figures["text"].as_str().unwrap().chars().take(12).collect::<String>();
    assert_eq!(first(&full), first(&half));
    assert!(
        full["prompt_tokens_per_second"].as_f64().unwrap() > 0.0 && full["tokens_per_second"].as_f64().unwrap() > 0.0
    );
}

#[test]
fn settings_out_of_range_are_named() {
    let shop = Workshop::new();
    for (setting, part) in [
        (["--temperature", "-1"], "temperature"),
        (["--top-p", "0"], "top-p"),
        (["--min-p", "2"], "min-p"),
        (["--repetition-penalty", "0"], "repetition penalty"),
    ] {
        let [name, value] = setting;
        let mut command = edkm();
        command.arg("generate").arg(shop.model()).args(["--prompt", "Once"]);
        let output = command.args([name, value]).output().unwrap();
        assert_refused(&output, &[part], &shop.out());
        assert!(output.stdout.is_empty(), "the prompt is shown");
    }
}

#[test]
fn texts_may_begin_with_a_minus() {
    let shop = Workshop::new();
    let mut command = edkm();
    command.arg("generate").arg(shop.model());
    command.args(["--prompt", "- a list", "--stop", "--", "--tokens", "2"]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.starts_with("- a list"), "{text}");
}

#[test]
fn a_prompt_from_a_file_or_from_standard_input_is_the_same() {
    let shop = Workshop::new();
    let file = shop.path("prompt.txt");
    std::fs::write(&file, "Once upon a time\nthere was\n").unwrap();
    let generate = |arguments: &[&str], input: &str| {
        let mut command = edkm();
        command
            .arg("generate")
            .arg(shop.model())
            .args(["--tokens", "8"])
            .args(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // a program that does not read has ended
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    };
    let file = file.to_str().unwrap();
    let given = generate(&["--prompt", "Once upon a time\nthere was"], "");
    assert!(given.status.success() && !given.stdout.is_empty());
    assert_eq!(generate(&["--prompt-file", file], "").stdout, given.stdout);
    assert_eq!(
        generate(&["--prompt-file", "-"], "\u{feff}Once upon a time\r\nthere was\r\n").stdout,
        given.stdout
    );
    std::fs::write(file, [b'O', 0xff]).unwrap();
    let long = shop.path("long.txt");
    std::fs::write(&long, vec![b'O'; (16 << 20) + 1]).unwrap();
    let endless = if cfg!(unix) {
        "/dev/zero"
    } else {
        long.to_str().unwrap()
    };
    for (arguments, part) in [
        (&["--prompt-file", file][..], "is no UTF-8 at byte 1"),
        (&["--prompt-file", "nowhere.txt"], "cannot read nowhere.txt"),
        (&["--prompt-file", endless], "more than 16777216 bytes"),
    ] {
        assert_refused(&generate(arguments, ""), &[part], &shop.out());
    }
}
