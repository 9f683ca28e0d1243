//! Calls that are left behind where somebody stops who waits for them: the stop comes at once, and of the call nothing is
//! lost, nor forgotten.
//!
//! The numbers of the process, and pictures of everything, are looked at in processes of their own.

use crate::{child, child_side, guarded, named, placeless, told, virtually};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};
use tassel::{
    CancelToken, Cancelled, Scope, abandon,
    abandon::{Limit, Options, stats},
    checkpoint, is_cancelled, now,
    pool::Pool,
    region::{TimedOut, fail_after, move_on_after},
    scope, sleep,
    snapshot::{self, Kind, State},
    value::{self, Key},
};

const HOUR: Duration = Duration::from_secs(3600);

/// Long enough for the system to start a thread, or not: no result depends on it.
const SHORT: Duration = Duration::from_millis(2);

/// More than there is.
const TOO_MUCH: usize = 1 << 60;

/// The other end of a call that hangs.
struct Hung<T> {
    begun: Receiver<()>,
    goes_on: Sender<T>,
}

/// A call that hangs until its other end sends something, which it returns, or is dropped.
fn hung<T: Send + 'static>() -> (Hung<T>, impl FnOnce() -> Option<T> + Send + 'static) {
    let (begins, begun) = mpsc::channel();
    let (goes_on, receive) = mpsc::channel();
    let call = move || {
        let _ = begins.send(());
        receive.recv().ok()
    };
    (Hung { begun, goes_on }, call)
}

/// Makes a call on a thread of its own, and stops it once the call, whose other end that is, has begun.
fn leave_behind<T: Send, U>(hung: &Hung<U>, call: impl FnOnce() -> Result<T, Cancelled> + Send) {
    let token = CancelToken::new();
    thread::scope(|threads| {
        let waits = threads.spawn(|| token.enter(call));
        hung.begun.recv().unwrap();
        token.cancel();
        assert!(waits.join().unwrap().is_err());
    });
}

fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        thread::yield_now();
    }
}

fn until_one_waits(s: &Scope<'_, '_>, on: &'static str) {
    until(|| snapshot::of(s).jobs().any(|job| job.state == State::Waiting { on }));
}

/// Says what it is when it is dropped, on which thread, and how many calls run under the limit.
struct Says(&'static str, Sender<(&'static str, Option<String>, usize)>, Limit);

impl Drop for Says {
    fn drop(&mut self) {
        let thread = thread::current().name().map(str::to_owned);
        self.1.send((self.0, thread, self.2.running())).unwrap();
    }
}

#[test]
fn what_the_call_returns_comes_back_also_outside_any_scope() {
    guarded(|| {
        let limit = Limit::new(1);
        let options = Options::new().name("seven").limit(&limit);
        for _ in 0..3 {
            assert_eq!(options.clone().call(|| 7).unwrap(), 7);
            assert_eq!(limit.running(), 0, "it is over when it returns");
        }
        let value = scope(|s| Ok(s.spawn(|| Ok(abandon(|| "7".parse::<u32>())??)).join()?));
        assert_eq!(value.unwrap(), 7);
        assert_eq!(format!("{options:?}").matches("seven").count(), 1);
    });
}

// S37, S39:
#[test]
fn a_cancelled_place_does_not_make_the_call() {
    guarded(|| {
        let (send, says) = mpsc::channel();
        let limit = Limit::new(1);
        let captured = Says("closure", send, limit.clone());
        let token = CancelToken::new();
        token.cancel_with("closing time");
        let call = move || {
            let captured = captured;
            panic!("it was called: {}", captured.0)
        };
        let stop = token.enter(|| Options::new().limit(&limit).call(call)).unwrap_err();
        assert_eq!(stop.reason().text(), Some("closing time"));
        assert_eq!(says.try_recv().unwrap().2, 0, "gone before it returns");
        let late = fail_after(Duration::ZERO, || Ok(abandon(|| panic!("it was called"))?));
        assert!(late.unwrap_err().is::<TimedOut>());
    });
}

// S72, S40:
#[test]
fn a_cancel_leaves_the_call_behind_and_its_permit_is_held_to_its_end() {
    guarded(|| {
        let limit = Limit::new(1);
        let (other, call) = hung::<u8>();
        let done = scope(|s| {
            s.job("a").spawn(|| Ok(Options::new().limit(&limit).call(call).map(drop)?));
            other.begun.recv()?;
            s.cancel();
            Ok(())
        });
        assert!(done.is_ok(), "everybody is home");
        assert_eq!(limit.running(), 1);
        other.goes_on.send(7).unwrap();
        until(|| limit.running() == 0);
    });
}

// S72:
#[test]
fn a_limit_on_time_is_kept_whatever_the_call_does() {
    guarded(|| {
        let (goes_on, call) = hung::<u8>();
        let late = fail_after(SHORT, || Ok(abandon(call)?));
        assert!(late.unwrap_err().is::<TimedOut>());
        let (also, call) = hung::<u8>();
        let group = scope(|s| Ok(s.job("a").timeout(SHORT).spawn(|| Ok(abandon(call)?)).join()?)).unwrap_err();
        assert!(group.find::<TimedOut>().is_some());
        drop((goes_on, also));
    });
}

// S72:
#[test]
fn a_result_that_nobody_waits_for_is_dropped_by_the_call_s_own_thread_before_it_gives_up_its_permit() {
    guarded(|| {
        let limit = Limit::new(3);
        let (send, says) = mpsc::channel();
        let (other, call) = hung::<Says>();
        let captured = Says("captured", send.clone(), limit.clone());
        let call = move || {
            let _captured = captured;
            call()
        };
        leave_behind(&other, || Options::new().limit(&limit).call(call));
        other.goes_on.send(Says("result", send, limit.clone())).unwrap();
        let told: Vec<_> = says.iter().collect();
        let thread = Some("tassel-abandon".to_owned());
        assert_eq!(told, [("captured", thread.clone(), 1), ("result", thread, 1)]);
        until(|| limit.running() == 0);
    });
}

#[test]
fn a_panic_of_the_call_is_the_caller_s() {
    guarded(|| {
        let limit = Limit::new(1);
        let group = named("s").open(|s| {
            s.job("a").spawn(|| Ok(Options::new().limit(&limit).call(|| panic!("in the call"))?));
            Ok(())
        });
        assert_eq!(told(&group.unwrap_err()), ["job `a` panicked: in the call"]);
        let thrown = catch_unwind(|| abandon(|| panic_any(7_u64)));
        assert_eq!(thrown.unwrap_err().downcast_ref(), Some(&7_u64), "with its payload");
        assert_eq!(limit.running(), 0);
    });
}

// S72, S27:
#[test]
fn panics_of_calls_that_were_left_behind_are_counted() {
    guarded(|| assert!(child("abandon::counted", &[]).status.success()));
}

#[test]
#[ignore = "a child process of `panics_of_calls_that_were_left_behind_are_counted`"]
fn counted() {
    /// Panics when it is dropped; so does what it throws, the first time.
    struct Bad(u8);
    impl Drop for Bad {
        fn drop(&mut self) {
            if self.0 > 0 {
                panic_any(Bad(self.0 - 1));
            }
        }
    }
    static BAD: Key<Arc<Bad>> = Key::new();
    child_side(|| {
        let leave_with = |bad: Option<Arc<Bad>>, f: Box<dyn FnOnce() -> Bad + Send>| {
            let (other, call) = hung::<()>();
            let call = move || {
                call();
                f()
            };
            leave_behind(&other, || match bad {
                Some(bad) => value::with(&BAD, bad, || abandon(call)),
                None => abandon(call),
            });
            let before = stats();
            assert_eq!((before.running, before.abandoned), (1, 1));
            drop(other);
            until(|| stats().running == 0);
            stats().panicked
        };
        let leave = |f| leave_with(None, f);
        assert_eq!(leave(Box::new(|| Bad(0))), 0);
        assert_eq!(leave(Box::new(|| panic!("left behind"))), 1);
        assert_eq!(leave(Box::new(|| panic_any(Bad(1)))), 2);
        assert_eq!(leave(Box::new(|| Bad(2))), 3);
        // A value that was bound around it, and dies with it.
        assert_eq!(leave_with(Some(Arc::new(Bad(1))), Box::new(|| Bad(0))), 4);
        let all = stats();
        assert_eq!((all.running, all.abandoned, all.left, all.refused), (0, 0, 5, 0));
        // Whose panic somebody takes is not counted.
        assert!(catch_unwind(|| abandon(|| panic!("taken"))).is_err());
        assert_eq!(stats(), all);
    });
}

// S72, S40:
#[test]
fn where_calls_hang_further_ones_wait_for_a_permit_and_can_be_stopped() {
    guarded(|| {
        let limit = Limit::new(1);
        let (other, call) = hung::<u8>();
        leave_behind(&other, || Options::new().limit(&limit).call(call));
        let ran = Arc::new(AtomicBool::new(false));
        let call = |limit: &Limit| {
            let ran = Arc::clone(&ran);
            Options::new().limit(limit).call(move || ran.store(true, Ordering::SeqCst))
        };
        let done = scope(|s| {
            let job = s.job("b").spawn(|| Ok(call(&limit)?));
            until_one_waits(s, "abandon limit");
            let line = snapshot::of(s).to_string();
            assert!(placeless(&line).contains(": waiting in abandon limit, 1 of 1 in use, "), "{line}");
            assert_eq!(format!("{limit:?}"), "Limit { calls: 1, running: 1, waiting: 1 }");
            job.cancel();
            Ok(())
        });
        assert!(done.is_ok() && !ran.load(Ordering::SeqCst));
        assert!(move_on_after(SHORT, || Ok(call(&limit)?)).unwrap().is_none());
        assert!(move_on_after(SHORT, || Ok(call(&Limit::new(0))?)).unwrap().is_none(), "no call ever runs");
        assert!(!ran.load(Ordering::SeqCst));
        scope(|s| {
            s.job("c").spawn(|| Ok(call(&limit)?));
            until_one_waits(s, "abandon limit");
            other.goes_on.send(7)?;
            Ok(())
        })
        .unwrap();
        assert!(ran.load(Ordering::SeqCst));
        assert_eq!(format!("{limit:?}"), "Limit { calls: 1, running: 0, waiting: 0 }");
    });
}

#[test]
fn never_more_calls_run_than_the_limit_says_and_each_runs_once() {
    guarded(|| {
        let limit = Limit::new(3);
        let running = Arc::new(Mutex::new((0, 0, 0)));
        scope(|s| {
            for n in 0..60 {
                let (limit, running) = (limit.clone(), Arc::clone(&running));
                s.spawn(move || {
                    Options::new().limit(&limit).call(move || {
                        let mut now = running.lock().unwrap();
                        now.0 += 1;
                        now.1 = now.1.max(now.0);
                        drop(now);
                        thread::yield_now();
                        let mut now = running.lock().unwrap();
                        (now.0, now.2) = (now.0 - 1, now.2 + n);
                    })?;
                    Ok(())
                });
            }
        })
        .unwrap();
        let (left, most, sum) = *running.lock().unwrap();
        assert!(left == 0 && most <= 3 && sum == 59 * 60 / 2, "{left} {most} {sum}");
        assert_eq!(limit.running(), 0);
    });
}

// D18:
#[test]
fn where_the_system_refuses_a_thread_the_caller_makes_the_call_itself() {
    guarded(|| {
        let limit = Limit::new(1);
        let options = || Options::new().limit(&limit).stack_size(TOO_MUCH);
        assert_eq!(options().call(|| thread::current().id()).unwrap(), thread::current().id());
        // It cannot be left behind, so a stop is met after it; inside it does not show.
        let stopped = scope(|s| {
            let token = s.token();
            let seen = options().call(move || {
                token.cancel_with("meanwhile");
                (is_cancelled(), checkpoint().is_ok())
            });
            assert_eq!(seen?, (false, true));
            Ok(checkpoint()?)
        });
        assert_eq!(stopped.unwrap_err().reason().and_then(tassel::Reason::text), Some("meanwhile"));
        let thrown = catch_unwind(AssertUnwindSafe(|| options().call(|| panic_any(7_u64))));
        assert_eq!(thrown.unwrap_err().downcast_ref(), Some(&7_u64));
        assert_eq!(limit.running(), 0);
        assert!(stats().refused >= 3);
    });
}

#[test]
fn in_the_call_there_is_no_scope_and_what_is_bound_is_bound() {
    static NAME: Key<&str> = Key::new();
    guarded(|| {
        let (send, receive) = mpsc::channel();
        let done = value::with(&NAME, "ada", || {
            scope(|s| {
                let token = s.token();
                // It may be left behind, and then says so itself.
                let call = move || {
                    token.cancel();
                    let has_token = CancelToken::current().is_cancelled();
                    send.send((is_cancelled(), has_token, NAME.get())).unwrap();
                };
                Ok(abandon(call)?)
            })
        });
        drop(done);
        assert_eq!(receive.recv().unwrap(), (false, false, Some("ada")));
        let seen = value::with(&NAME, "ada", || scope(|_| Ok(abandon(|| (is_cancelled(), NAME.get()))?)));
        assert_eq!(seen.unwrap(), (false, Some("ada")));
    });
}

#[test]
fn neither_a_pool_nor_a_scope_waits_for_a_call_that_was_left_behind() {
    guarded(|| {
        let pool = Pool::builder().parallelism(1).build().unwrap();
        let limit = Limit::new(1);
        let (other, call) = hung::<u8>();
        let done = named("s").pool(&pool).open(|s| {
            let job = s.job("a").own_thread().spawn(|| Ok(Options::new().limit(&limit).call(call).map(drop)?));
            other.begun.recv()?;
            until(|| pool.stats().blocked == 1);
            job.cancel();
            Ok(())
        });
        assert!(done.is_ok());
        pool.shutdown().unwrap();
        assert_eq!((pool.stats().workers, limit.running()), (0, 1));
        drop(other);
        until(|| limit.running() == 0);
    });
}

#[test]
fn a_call_in_a_call_is_left_behind_with_it_and_both_end() {
    guarded(|| {
        let limit = Limit::new(2);
        let (goes_on, call) = hung::<u8>();
        let inner = limit.clone();
        let outer = move || Options::new().limit(&inner).call(call);
        let token = CancelToken::new();
        let stopper = thread::spawn({
            let (token, limit) = (token.clone(), limit.clone());
            move || {
                until(|| limit.running() == 2);
                token.cancel();
            }
        });
        assert!(token.enter(|| Options::new().limit(&limit).call(outer)).is_err());
        assert_eq!(limit.running(), 2, "the inner one is waited for, without a scope");
        drop(goes_on);
        until(|| limit.running() == 0);
        stopper.join().unwrap();
    });
}

#[test]
fn virtual_time_stands_while_somebody_waits_for_a_call_or_a_permit() {
    virtually(|| {
        let began = now();
        let limit = Limit::new(1);
        scope(|s| {
            let token = s.token();
            // Others have gone to sleep: were the clock free, it would move now.
            let call = move || {
                until(|| {
                    let all = snapshot::below(&token);
                    all.entries.iter().any(|entry| entry.state == State::Waiting { on: "sleep" })
                });
                (0..1000).for_each(|_| thread::yield_now());
            };
            let abandons = |call| {
                let limit = &limit;
                move || {
                    Options::new().limit(limit).call(call)?;
                    Ok(now())
                }
            };
            let a = s.job("a").spawn(abandons(call.clone()));
            let b = s.job("b").spawn(abandons(call));
            s.job("c").spawn(|| Ok(sleep(HOUR)?));
            assert_eq!([a.join()?, b.join()?], [began; 2]);
            Ok(())
        })
        .unwrap();
        assert_eq!(now() - began, HOUR);
        // A cancel comes through, and what was left behind holds nothing.
        let (goes_on, call) = hung::<u8>();
        scope(|s| {
            let job = s.job("a").spawn(|| Ok(abandon(call).map(drop)?));
            s.job("b").spawn(move || {
                job.cancel();
                Ok(sleep(HOUR)?)
            });
            Ok(())
        })
        .unwrap();
        assert_eq!(now() - began, 2 * HOUR);
        drop(goes_on);
    });
}

#[test]
fn a_picture_shows_who_waits_and_then_what_was_left_behind() {
    guarded(|| {
        let output = child("abandon::drawn", &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
}

#[test]
#[ignore = "a child process of `a_picture_shows_who_waits_and_then_what_was_left_behind`"]
fn drawn() {
    child_side(|| {
        let (other, call) = hung::<()>();
        let (also, unnamed) = hung::<()>();
        let line = line!() + 2;
        let done = scope(|s| {
            s.job("a").spawn(|| Ok(Options::new().name("look-up").call(call).map(drop)?));
            other.begun.recv()?;
            until_one_waits(s, "abandon");
            let picture = snapshot::of(s);
            let job = picture.jobs().next().unwrap();
            assert_eq!(job.waits_at.map(std::panic::Location::line), Some(line));
            assert!(placeless(&picture.to_string()).contains(": waiting in abandon for `look-up`, "), "{picture}");
            assert_eq!(snapshot::all().entries.len(), 2, "who is waited for shows where it is waited for");
            s.cancel_with("enough");
            Ok(())
        });
        assert!(done.is_ok());
        let second = line!() + 1;
        leave_behind(&also, || abandon(unnamed));
        let picture = snapshot::all();
        let lines: Vec<_> = picture.to_string().lines().map(str::to_owned).collect();
        let file = file!();
        assert!(lines[0].starts_with(&format!("abandoned call `look-up` ({file}:{line}): running, for ")), "{picture}");
        assert!(lines[0].contains(", on tassel-abandon, left behind: ") && lines[0].contains("enough"), "{picture}");
        assert!(lines[1].starts_with(&format!("abandoned call `{file}:{second}`: running, for ")), "{picture}");
        let first = &picture.entries[0];
        assert_eq!(
            (first.kind, first.name.as_str(), first.kind.to_string().as_str()),
            (Kind::Abandoned, "look-up", "abandoned call")
        );
        assert!(first.since.is_some_and(|since| since <= picture.taken));
        drop((other, also));
        until(|| snapshot::all().entries.is_empty());
    });
}

// S75:
#[test]
#[cfg(unix)]
fn a_forked_child_has_no_calls_of_its_parent() {
    guarded(|| assert!(child("abandon::forked", &[]).status.success()));
}

#[test]
#[cfg(unix)]
#[ignore = "a child process of `a_forked_child_has_no_calls_of_its_parent`"]
fn forked() {
    use fork::{Fork, fork, waitpid};
    child_side(|| {
        let limit = Limit::new(1);
        let (other, call) = hung::<()>();
        leave_behind(&other, || Options::new().limit(&limit).call(call));
        let looks = || {
            assert_eq!((limit.running(), stats().running, stats().left), (0, 0, 0));
            assert!(snapshot::all().entries.is_empty());
            assert_eq!(Options::new().limit(&limit).call(|| 7).unwrap(), 7);
            let (other, call) = hung::<()>();
            leave_behind(&other, || Options::new().limit(&limit).call(call));
            assert_eq!((limit.running(), stats().abandoned), (1, 1));
            drop(other);
            until(|| limit.running() == 0);
        };
        match fork().unwrap() {
            Fork::Child => std::process::exit(i32::from(catch_unwind(AssertUnwindSafe(looks)).is_err())),
            Fork::Parent(pid) => assert_eq!(waitpid(pid).unwrap(), 0),
        }
        assert_eq!((limit.running(), stats().abandoned), (1, 1));
        drop(other);
        until(|| limit.running() == 0);
    });
}

#[test]
fn a_stop_that_comes_with_the_result_loses_neither() {
    guarded(|| {
        let limit = Limit::new(1);
        for _ in 0..500 {
            let (send, says) = mpsc::channel();
            let token = CancelToken::new();
            let cancels = token.clone();
            let (value, inner) = (Says("result", send, limit.clone()), limit.clone());
            let got = token.enter(|| {
                Options::new().limit(&inner).call(move || {
                    cancels.cancel();
                    value
                })
            });
            drop(got);
            let drops: Vec<_> = says.iter().collect();
            assert_eq!(drops.len(), 1, "it is dropped once");
            until(|| limit.running() == 0);
        }
    });
}

#[test]
fn a_thread_that_unwinds_can_make_calls() {
    struct Late(Sender<Option<u8>>);
    impl Drop for Late {
        fn drop(&mut self) {
            self.0.send(abandon(|| 7).ok()).unwrap();
        }
    }
    guarded(|| {
        let (send, receive) = mpsc::channel();
        let thrown = catch_unwind(AssertUnwindSafe(|| {
            let _late = Late(send);
            resume_unwind(Box::new("thrown"));
        }));
        assert!(thrown.is_err());
        assert_eq!(receive.recv().unwrap(), Some(7));
    });
}
