//! Pictures of what is alive: complete, consistent, and readable for three jobs and for ten thousand.

use crate::{guarded, stress, virtually};
use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use tassel::{
    CancelToken, Scope, ScopeOptions, now,
    pool::Pool,
    region::move_on_after,
    scope, sleep,
    snapshot::{self, Kind, Snapshot, State},
    sync::{Barrier, Event},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// The drawing without this file's name and lines, and without the threads, whose numbers depend on other tests.
fn drawn(picture: &Snapshot) -> String {
    let text = picture.to_string();
    let lines = text.lines().map(|line| {
        let parts: Vec<_> = line.split(", ").filter(|part| !part.starts_with("on ")).collect();
        let mut line = parts.join(", ");
        while let Some(at) = line.find(file!()) {
            let rest =
                line[at + file!().len() + 1..].trim_start_matches(|c: char| c.is_ascii_digit() || c == ':').len();
            line = format!("{}here{}", &line[..at], &line[line.len() - rest..]);
        }
        line
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Every parent stands before its children, one level above them, and no job twice.
fn holds_together(picture: &Snapshot) {
    let mut ids = BTreeSet::new();
    for (at, entry) in picture.entries.iter().enumerate() {
        match entry.parent {
            Some(parent) => {
                assert!(parent < at, "{picture}");
                assert_eq!(picture.entries[parent].depth + 1, entry.depth, "{picture}");
                assert!(entry.kind != Kind::Job || picture.entries[parent].kind == Kind::Scope, "{picture}");
            }
            None => assert!(entry.depth == 0 && entry.kind != Kind::Job, "{picture}"),
        }
        assert!(entry.id.is_none_or(|id| ids.insert(id)), "{picture}");
    }
}

#[test]
fn a_picture_tells_who_waits_for_whom_since_when_and_until_when() {
    virtually(|| {
        let pool = Pool::builder().max_threads(3).build().unwrap();
        let seen = ScopeOptions::new()
            .name("top")
            .pool(&pool)
            .inline(false)
            .open(|s| {
                let napper = s.job("napper").timeout(10 * SECOND).spawn(|| Ok(sleep(HOUR)?));
                s.job("joiner").spawn(move || {
                    let _ = napper.join();
                });
                s.job("outer").spawn(|| {
                    move_on_after(5 * SECOND, || {
                        Ok(ScopeOptions::new().name("inner").open(|s| {
                            s.job("leaf").spawn(|| ());
                            Ok(sleep(HOUR)?)
                        })?)
                    })
                });
                sleep(2 * SECOND)?;
                let picture = snapshot::of(s);
                s.cancel();
                Ok(picture)
            })
            .unwrap();
        holds_together(&seen);
        assert_eq!(
            drawn(&seen),
            "scope `top` (here): body running, for 2s
├─ job `napper` (here): waiting in sleep at here, for 2s, 8s left
├─ job `joiner` (here): waiting in join at here for job `napper`, for 2s
└─ job `outer` (here): running, for 2s
   └─ region `here`: running, 3s left
      └─ scope `inner` (here): body waiting in sleep at here, for 2s
         └─ job `leaf` (here): queued"
        );
    });
}

#[test]
fn ten_thousand_jobs_are_counted_and_their_data_is_all_there() {
    virtually(|| {
        let picture = scope(|s| {
            for _ in 0..9_990 {
                s.job("queued").spawn(|| ());
            }
            Ok(snapshot::of(s))
        })
        .unwrap();
        holds_together(&picture);
        assert_eq!(picture.jobs().filter(|job| job.state == State::Queued).count(), 9_990);
        let text = picture.to_string();
        assert_eq!(text.lines().count(), 1 + 12 + 1);
        assert!(text.ends_with("└─ … and 9978 more: 9978 queued"), "{text}");
    });
}

#[test]
fn a_drawing_has_at_most_two_hundred_lines() {
    virtually(|| {
        fn nest(depth: u32) -> tassel::Result<Option<Snapshot>> {
            if depth == 0 {
                return Ok(Some(snapshot::all()));
            }
            move_on_after(HOUR, || nest(depth - 1)).map(Option::flatten)
        }
        let picture = scope(|_| nest(300)).unwrap().unwrap();
        holds_together(&picture);
        let text = picture.to_string();
        assert_eq!(text.lines().count(), 200);
        assert!(text.lines().last().unwrap().starts_with("… and "), "{text}");
        // Indentation stops.
        assert!(text.lines().all(|line| line.chars().count() < 250), "{text}");
    });
}

#[test]
fn all_scopes_show_from_their_opening_to_their_end() {
    virtually(|| {
        fn shows(name: &str) -> usize {
            snapshot::all().entries.iter().filter(|entry| entry.name == name).count()
        }
        let name = "all-scopes-show";
        assert_eq!(shows(name), 0);
        ScopeOptions::new()
            .name(name)
            .open(|s| {
                assert_eq!(shows(name), 1);
                let bound = s.token().bind(|| {
                    // Below the scope, from a thread that is not the library's.
                    ScopeOptions::new().name("all-scopes-show-inner").open(|_| {
                        assert_eq!(shows("all-scopes-show-inner"), 1);
                        let all = snapshot::all();
                        let inner = all.entries.iter().find(|entry| entry.name == "all-scopes-show-inner");
                        assert_eq!(all.entries[inner.unwrap().parent.unwrap()].name, name);
                    })
                });
                thread::scope(|threads| threads.spawn(bound).join().unwrap()).unwrap();
                Ok(())
            })
            .unwrap();
        assert_eq!(shows(name), 0);
    });
}

#[test]
fn a_token_shows_what_stands_below_it() {
    virtually(|| {
        let token = CancelToken::new();
        assert!(snapshot::below(&token).entries.is_empty());
        assert_eq!(snapshot::below(&token).to_string(), "nothing is alive");
        let open = |s: &Scope<'_, '_>| {
            assert_eq!(drawn(&snapshot::below(&s.token())), "scope `below` (here): body running, for 0s");
            snapshot::below(&token)
        };
        let picture = token.enter(|| ScopeOptions::new().name("below").open(|s| Ok(open(s)))).unwrap();
        assert_eq!(drawn(&picture), "scope `below` (here): body running, for 0s");
    });
}

#[test]
fn a_cancelled_place_says_why() {
    virtually(|| {
        let picture = scope(|s| {
            s.cancel_with("had enough");
            Ok(snapshot::of(s))
        })
        .unwrap();
        let reason = picture.entries[0].cancelled.as_ref().unwrap();
        assert_eq!(reason.text(), Some("had enough"));
        assert!(picture.to_string().contains("cancelled: "), "{picture}");
    });
}

#[test]
fn a_job_runs_on_a_thread_with_a_name() {
    guarded(|| {
        let pool = Pool::builder().name_prefix("seen").build().unwrap();
        let (met, go) = (Barrier::new(2), Event::new());
        let picture = ScopeOptions::new()
            .pool(&pool)
            .inline(false)
            .open(|s| {
                s.spawn(|| {
                    met.wait()?;
                    Ok(go.wait()?)
                });
                met.wait()?;
                let picture = snapshot::of(s);
                go.set();
                Ok(picture)
            })
            .unwrap();
        // On a busy machine perhaps not the first: a second one is started if that takes long.
        let thread = picture.jobs().next().unwrap().thread.as_deref();
        assert!(thread.is_some_and(|name| name.starts_with("seen-")), "{thread:?}");
        assert!(picture.taken <= now());
    });
}

#[test]
fn pictures_of_busy_programs_hold_together() {
    guarded(|| {
        let (over, taken) = (AtomicBool::new(false), Mutex::new(0));
        thread::scope(|threads| {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) || *taken.lock().unwrap() < 1000 {
                    holds_together(&snapshot::all());
                    *taken.lock().unwrap() += 1;
                    thread::yield_now();
                }
            });
            for seed in 0..100 {
                stress::round(seed, seed % 4 == 0);
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(taken.into_inner().unwrap() >= 1000);
    });
}
