//! Groups as data (feature `serde`): the form, to the letter, and that no depth or error can break it.

use crate::{LIMIT, guarded, guarded_for, virtually};
use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use std::{fmt, panic::resume_unwind, thread, time::Duration};
use tassel::{Cancelled, ErrorGroup, OnFailure, ScopeOptions, scope, sleep};

const HOUR: Duration = Duration::from_secs(3600);

fn keep_going(name: &str) -> ScopeOptions {
    ScopeOptions::new().name(name).on_failure(OnFailure::KeepGoing)
}

/// The data, with what differs from run to run or line to line replaced.
fn data(group: &ErrorGroup) -> Value {
    let mut data = serde_json::to_value(group).unwrap();
    for node in data["nodes"].as_array_mut().unwrap() {
        for (object, field) in [("job", "id"), ("job", "thread")] {
            if let Some(value) = node.get_mut(object).and_then(|object| object.get_mut(field)) {
                assert!(value.as_u64().is_some_and(|id| id > 0) || value.as_str().is_some_and(|name| !name.is_empty()));
                *value = field.into();
            }
        }
        for object in ["job", "scope"] {
            if let Some(place) = node.get_mut(object).and_then(|object| object.get_mut("place")) {
                let parts: Vec<_> = place.as_str().unwrap().split(':').collect();
                assert!(parts[0] == "tests/it/json.rs" && parts.len() == 3, "{place}");
                *place = "file:line:column".into();
            }
        }
    }
    data
}

// S24, S22, S25, D8:
#[test]
fn every_node_has_its_fields() {
    virtually(|| {
        let mut group = keep_going("crawl")
            .timeout(10 * HOUR)
            .open(|s| {
                s.job("b").spawn(|| {
                    let parse = keep_going("parse").open(|s| {
                        s.job("b.1").spawn(|| -> tassel::Result<()> { panic!("bad byte") });
                        Ok(())
                    });
                    parse.context("on page 3")
                });
                s.job("a").timeout(2 * HOUR).spawn(|| sleep(100 * HOUR).context("fetching"));
                assert!(sleep(100 * HOUR).is_err());
                Err::<(), _>(anyhow::anyhow!("no route").context("cleaning up"))
            })
            .unwrap_err();
        group.add_note("noted");
        let job = |role: &str, name: &str, path: &str, offset: f64, took: f64| {
            json!({
                "id": "id", "role": role, "name": name, "path": path, "place": "file:line:column", "thread": "thread",
                "offset": offset, "took": took,
            })
        };
        let found = data(&group);
        assert_eq!(found["text"], "scope `crawl`: 2 of 2 jobs and the body failed; first: job `b` failed");
        assert_eq!(found.as_object().unwrap().len(), 2);
        let nodes = found["nodes"].as_array().unwrap();
        assert_eq!(nodes.len(), 5);
        let reason = nodes[0]["scope"]["reason"]["text"].as_str().unwrap();
        assert!(reason.starts_with("deadline of 36000s (tests/it/json.rs:"), "{reason}");
        assert_eq!(
            nodes[0],
            json!({
                "parent": null, "kind": "group", "text": found["text"], "notes": ["noted"], "job": null,
                "during_cancellation": false, "children": [1, 3, 4],
                "scope": {
                    "name": "crawl", "place": "file:line:column", "jobs": 2, "dropped": 0, "stopped": false,
                    "reason": { "kind": "deadline", "text": reason, "who": "scope `crawl`" },
                },
            })
        );
        assert_eq!(
            nodes[1],
            json!({
                "parent": 0, "kind": "group", "text": "scope `parse`: 1 of 1 job failed; first: job `b.1` panicked",
                "notes": ["on page 3"], "job": job("job", "b", "crawl/b", 0.0, 0.0), "during_cancellation": false,
                "children": [2],
                "scope": {
                    "name": "parse", "place": "file:line:column", "jobs": 1, "dropped": 0, "stopped": false, "reason": null,
                },
            })
        );
        assert_eq!(
            nodes[2],
            json!({
                "parent": 1, "kind": "panic", "text": "job `b.1` panicked", "notes": [],
                "job": job("job", "b.1", "crawl/b/parse/b.1", 0.0, 0.0), "during_cancellation": false,
                "causes": ["bad byte"], "primary": true,
            })
        );
        let timeout = nodes[3]["causes"][0].as_str().unwrap();
        assert!(timeout.starts_with("deadline of 7200s (tests/it/json.rs:"), "{timeout}");
        assert_eq!(
            nodes[3],
            json!({
                "parent": 0, "kind": "timeout", "text": "job `a` timed out", "notes": ["fetching"],
                "job": job("job", "a", "crawl/a", 7200.0, 7200.0), "during_cancellation": false,
                "causes": [timeout], "primary": false,
            })
        );
        assert_eq!(
            nodes[4],
            json!({
                "parent": 0, "kind": "error", "text": "the body failed", "notes": [],
                "job": job("body", "body", "crawl", 36000.0, 36000.0), "during_cancellation": true,
                "causes": ["cleaning up", "no route"], "primary": false,
            })
        );
    });
}

#[test]
fn a_leaf_alone_is_its_node_without_a_parent() {
    virtually(|| {
        let group = scope(|s| {
            s.cancel_with("enough");
            Ok(sleep(HOUR)?)
        });
        let group = group.unwrap_err();
        let mut node = serde_json::to_value(&group).unwrap()["nodes"][1].clone();
        assert_eq!((&node["kind"], &node["text"]), (&json!("stop"), &json!("the body was stopped")));
        assert_eq!(node["causes"], json!([group.primary().downcast_ref::<Cancelled>().unwrap().to_string()]));
        assert_eq!(serde_json::to_value(&group).unwrap()["nodes"][0]["scope"]["stopped"], json!(true));
        node.as_object_mut().unwrap().remove("parent");
        assert_eq!(serde_json::to_value(group.primary()).unwrap(), node);
    });
}

#[test]
fn what_a_handler_failed_with_says_so() {
    virtually(|| {
        let group = scope(|_| Ok("two".parse::<u32>()?)).unwrap_err();
        let rest = group.handle::<std::num::ParseIntError>(|_| bail!("no retry")).unwrap();
        let found = data(&rest);
        assert_eq!(found["nodes"][1]["job"]["role"], json!("handler"));
        assert_eq!(found["nodes"][1]["text"], json!("the handler failed"));
    });
}

// S28:
#[test]
fn an_error_that_panics_as_it_is_shown_does_not_spoil_the_data() {
    guarded(|| {
        #[derive(Debug)]
        struct Bad;
        impl fmt::Display for Bad {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                resume_unwind(Box::new("bad"))
            }
        }
        impl std::error::Error for Bad {}
        let group = scope(|_| -> tassel::Result<()> { Err(Bad.into()) }).unwrap_err();
        assert_eq!(data(&group)["nodes"][1]["causes"], json!(["<the error's Display panicked>"]));
    });
}

// S23:
#[test]
fn a_hundred_thousand_nested_groups_are_written_and_read_on_a_small_stack() {
    // Seconds of work in a debug build, more beside others.
    guarded_for(4 * LIMIT, || {
        let small = || {
            let mut group = scope(|_| -> tassel::Result<()> { bail!("disk full") }).unwrap_err();
            for _ in 0..100_000 {
                group = scope(|_| Err::<(), _>(group.into())).unwrap_err();
            }
            let text = serde_json::to_string(&group).unwrap();
            let data: Value = serde_json::from_str(&text).unwrap();
            let nodes = data["nodes"].as_array().unwrap();
            assert_eq!(nodes.len(), 100_002);
            let last = nodes.last().unwrap();
            assert_eq!((&last["parent"], &last["causes"]), (&json!(100_000), &json!(["disk full"])));
            let chained = nodes.iter().zip(1_u64..).take(100_001).all(|(node, next)| node["children"] == json!([next]));
            assert!(chained);
        };
        let thread = thread::Builder::new().stack_size(2 << 20).spawn(small).unwrap();
        assert!(thread.join().is_ok());
    });
}
