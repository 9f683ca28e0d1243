//! Virtual time for tests: programs that sleep for hours run in milliseconds, in the same order each time.
//!
//! Needs the feature `testing`; enable it for `[dev-dependencies]` only. All code of a run, on whatever thread, has its
//! clock and moves by turns.

// Promises:
//
// 1. The run is over when the call returns, also by a panic: its node is closed, the baton handed on.
// 2. A cancel from outside reaches in; a deadline from outside is of another clock and does not.
// 3. A deadlock cancels the whole run, once, and is the result, whatever the code made of it.
//
// A run is a root node with a clock of its own. Does not know how turns are given: that is the run's, in
// `park/virtual_run.rs`.

use crate::{
    cancel::{
        current::{self, Frame, Strand},
        node::{Node, Parents},
        reason::{Label, Reason, ReasonKind},
    },
    observe::snapshot,
    park::{clock::Clock, seat::with_chair, virtual_run::Run},
    prim::Mutex,
};
use std::{error::Error, fmt, panic::Location, sync::Arc};

/// A virtual-time run in which everybody waited and nothing could end the waits; see [`try_virtual_time`].
#[derive(Clone, PartialEq, Eq)]
pub struct Deadlock {
    text: String,
    picture: String,
}

impl Deadlock {
    /// Returns who waited for what, where and since when, at the moment of the deadlock: a tree, as drawn by
    /// [`snapshot`](crate::snapshot).
    #[must_use]
    pub fn picture(&self) -> &str {
        &self.picture
    }
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// With the picture, for `unwrap` and for `main`.
impl fmt::Debug for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.text, self.picture)
    }
}

impl Error for Deadlock {}

/// Ends the run, also when the program unwinds.
struct Running {
    run: Arc<Run>,
    /// That of the code around: it stands meanwhile.
    outer: Clock,
    node: Arc<Node>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.node.close();
        with_chair(|chair| self.run.end(chair.seat()));
        self.run.finish();
        if let Some(outer) = self.outer.run() {
            outer.set_inner(false);
        }
    }
}

/// Runs `f` in virtual time and returns its value.
///
/// One job moves at a time; who waits hands on to who has been ready longest, then in the order of spawning. When nobody
/// can move, the clock jumps to the next instant that anybody waits for. So a program's order is the same each time, and
/// hours pass in milliseconds. It all goes for the code of `f`, for the scopes opened in it, and for closures
/// [bound](crate::CancelToken::bind) to their tokens.
///
/// A cancel from outside reaches into the run; deadlines from outside do not, as they are of another clock. A run inside a
/// run has a clock of its own, and the outer one stands meanwhile.
///
/// What is not the library's cannot be seen: a job that blocks outside it, at a std barrier say, is found asleep after a
/// while (on Linux), and the others go on; a loop that polls without waiting keeps the clock from moving; a thread that is
/// not bound moves whenever it likes, and to wait for it alone is a deadlock.
///
/// # Panics
///
/// Panics with a report if everybody waits and nothing can end it, a deadlock: with a tree of who waits for what. All are
/// cancelled first, and `f` returns.
/// A panic of `f` passes through.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tassel::{now, scope, sleep, testing::virtual_time};
/// let hour = Duration::from_secs(3600);
/// let took = virtual_time(|| {
///     let start = now();
///     scope(|s| {
///         s.spawn(move || Ok(sleep(2 * hour)?));
///         s.spawn(move || Ok(sleep(hour)?));
///         Ok(())
///     })?;
///     Ok::<_, tassel::ErrorGroup>(now() - start)
/// })?;
/// assert_eq!(took, 2 * hour);
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
#[track_caller]
pub fn virtual_time<T>(f: impl FnOnce() -> T) -> T {
    match try_virtual_time(f) {
        Ok(value) => value,
        Err(deadlock) => panic!("{deadlock:?}"),
    }
}

/// Runs `f` in virtual time as [`virtual_time`] does; a deadlock is an error.
///
/// # Errors
///
/// Returns [`Deadlock`] if everybody waited and nothing could end it. All were cancelled then, with a reason of kind
/// [`Deadlock`](ReasonKind::Deadlock), and `f` has returned; its value is dropped.
///
/// # Panics
///
/// A panic of `f` passes through.
///
/// # Examples
///
/// ```
/// use tassel::{sync::Event, testing::try_virtual_time};
/// let deadlock = try_virtual_time(|| Event::new().wait()).unwrap_err();
/// assert_eq!(deadlock.to_string(), "deadlock: 1 thread waits, and nothing can wake it");
/// ```
#[track_caller]
pub fn try_virtual_time<T>(f: impl FnOnce() -> T) -> Result<T, Deadlock> {
    let label = Label::new("virtual run", None, Location::caller());
    let run = with_chair(|chair| Run::start(chair.seat()));
    let outer = current::node();
    let parents = Parents { parent: outer.as_ref(), also: None };
    let node = Node::new(&parents, label.clone(), Clock::Virtual(Arc::clone(&run)), None);
    let report = Arc::new(Mutex::new(None));
    let strand = Strand::at(label, "".into(), 0, &node);
    let (told, root, first) = (Arc::clone(&report), Arc::downgrade(&node), Arc::clone(&strand));
    run.set_on_deadlock(Box::new(move |waiting| {
        let text = match waiting {
            1 => "deadlock: 1 thread waits, and nothing can wake it".to_owned(),
            _ => format!("deadlock: {waiting} threads wait, and nothing can wake them"),
        };
        if let Some(root) = root.upgrade() {
            *told.lock() = Some(Deadlock { text: text.clone(), picture: picture(&root, &first) });
            let reason = Reason::new(ReasonKind::Deadlock, root.label().clone(), root.clock().now());
            root.cancel(&reason.text_is(text), false);
        }
    }));
    let outer = current::clock();
    if let Some(outer) = outer.run() {
        outer.set_inner(true);
    }
    let running = Running { run, outer, node: Arc::clone(&node) };
    let value = current::enter(Frame::of(&strand), f);
    drop(running);
    let report = report.lock().take();
    match report {
        Some(deadlock) => Err(deadlock),
        None => Ok(value),
    }
}

/// Draws who waits below `root`, and in the code of the run itself.
fn picture(root: &Arc<Node>, first: &Arc<Strand>) -> String {
    let drawn = snapshot::at(root);
    let Some(waits) = first.waits() else { return drawn.to_string() };
    let (doing, place) = (waits.activity.name(), waits.place);
    let first = format!("the run's first code waits in {doing} at {}:{}", place.file(), place.line());
    if drawn.entries.is_empty() { first } else { format!("{first}\n{drawn}") }
}

#[cfg(all(test, not(any(tassel_loom, tassel_shuttle))))]
mod tests {
    use super::*;
    use crate::{
        cancel::token::CancelToken,
        scope::region::{fail_after, move_on_after},
        wait::{
            barrier::Barrier,
            event::Event,
            given::{self, LONG, node, soon, stand, until},
            time::{checkpoint, is_cancelled, now, sleep, sleep_until, yield_now},
        },
    };
    use std::{
        panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
        sync::atomic::{AtomicUsize, Ordering},
        thread,
        time::{Duration, Instant},
    };

    /// Starts threads of the run; `then` runs when all have entered it: from then on the order is the run's own.
    fn with_guests(jobs: Vec<Box<dyn FnOnce() + Send>>, then: impl FnOnce()) {
        let token = CancelToken::current();
        let entered = Arc::new(AtomicUsize::new(0));
        let mut threads = Vec::new();
        for job in jobs {
            let mine = Arc::clone(&entered);
            threads.push(thread::spawn(token.bind(move || {
                mine.fetch_add(1, Ordering::Release);
                job();
            })));
            // Subtle: it spins. Asleep outside the library we would lose the baton, and time would pass.
            until(|| entered.load(Ordering::Acquire) == threads.len());
        }
        then();
        for thread in threads {
            assert!(thread.join().is_ok());
        }
    }

    #[test]
    fn an_hour_passes_at_once_and_exactly() {
        soon(|| {
            let real = Instant::now();
            virtual_time(|| {
                let start = now();
                assert!(sleep(LONG).is_ok() && sleep(Duration::ZERO).is_ok() && sleep_until(start).is_ok());
                assert!(yield_now().is_ok());
                assert_eq!(now() - start, LONG);
            });
            assert!(real.elapsed() < LONG);
        });
    }

    #[test]
    fn regions_end_by_the_virtual_clock() {
        soon(|| {
            virtual_time(|| {
                let start = now();
                assert!(matches!(move_on_after(LONG, || Ok(sleep(2 * LONG)?)), Ok(None)));
                assert_eq!(now() - start, LONG);
                let late = fail_after(LONG, || Ok(Event::new().wait()?));
                assert!(late.is_err_and(|error| error.is::<crate::cancel::reason::TimedOut>()));
                assert!(matches!(Event::new().wait_timeout(LONG), Ok(false)));
                assert_eq!(now() - start, 3 * LONG);
            });
        });
    }

    #[test]
    fn sleepers_wake_in_the_order_of_their_instants() {
        soon(|| {
            for _ in 0..20 {
                let seen = virtual_time(|| {
                    let seen = Arc::new(Mutex::new(Vec::new()));
                    let job = |hours: u32| -> Box<dyn FnOnce() + Send> {
                        let seen = Arc::clone(&seen);
                        Box::new(move || {
                            assert!(sleep(hours * LONG).is_ok());
                            seen.lock().push(hours);
                        })
                    };
                    with_guests(vec![job(3), job(1), job(4), job(2)], || assert!(sleep(5 * LONG).is_ok()));
                    seen.lock().clone()
                });
                assert_eq!(seen, [1, 2, 3, 4]);
            }
        });
    }

    #[test]
    fn events_and_barriers_pass_between_threads_of_the_run() {
        soon(|| {
            virtual_time(|| {
                let (event, barrier) = (Arc::new(Event::new()), Arc::new(Barrier::new(2)));
                let job = {
                    let (event, barrier) = (Arc::clone(&event), Arc::clone(&barrier));
                    Box::new(move || {
                        assert!(sleep(LONG).is_ok());
                        event.set();
                        assert!(barrier.wait().is_ok());
                    })
                };
                with_guests(vec![job], || {
                    assert!(event.wait().is_ok() && barrier.wait().is_ok());
                });
            });
        });
    }

    #[test]
    fn a_deadlock_stops_all_and_is_told() {
        soon(|| {
            let ended = try_virtual_time(|| {
                let waited = Event::new().wait();
                let reason = waited.unwrap_err().reason().clone();
                assert_eq!(reason.kind(), ReasonKind::Deadlock);
                assert!(is_cancelled());
            });
            assert_eq!(ended.unwrap_err().to_string(), "deadlock: 1 thread waits, and nothing can wake it");
            let ended = try_virtual_time(|| {
                let job = || Box::new(|| assert!(Event::new().wait().is_err())) as Box<dyn FnOnce() + Send>;
                with_guests(vec![job(), job()], || assert!(sleep(Duration::MAX).is_err()));
            });
            assert_eq!(ended.unwrap_err().to_string(), "deadlock: 3 threads wait, and nothing can wake them");
        });
    }

    #[test]
    fn virtual_time_panics_with_the_report() {
        soon(|| {
            let thrown = catch_unwind(|| virtual_time(|| drop(Event::new().wait())));
            let text = thrown.unwrap_err().downcast::<String>().map(|text| *text).unwrap_or_default();
            assert!(text.starts_with("deadlock: 1 thread waits, and nothing can wake it\nthe run's"), "{text}");
        });
    }

    #[test]
    fn an_outer_cancel_crosses_into_the_run_and_an_outer_deadline_does_not() {
        soon(|| {
            let outer = node(Some(Duration::ZERO));
            stand(&outer, || {
                assert!(virtual_time(|| sleep(LONG)).is_ok());
                let outer = node(None);
                stand(&outer, || {
                    given::cancel(&outer);
                    assert!(virtual_time(checkpoint).is_err());
                });
            });
        });
    }

    #[test]
    fn a_run_inside_a_run_has_its_own_clock() {
        soon(|| {
            virtual_time(|| {
                let start = now();
                virtual_time(|| assert!(sleep(2 * LONG).is_ok()));
                assert_eq!(now(), start);
                assert!(sleep(LONG).is_ok());
                assert_eq!(now() - start, LONG);
            });
        });
    }

    #[test]
    fn a_panic_ends_the_run() {
        soon(|| {
            let mut token = None;
            let run = AssertUnwindSafe(|| {
                virtual_time(|| {
                    token = Some(CancelToken::current());
                    resume_unwind(Box::new("thrown"));
                });
            });
            assert!(catch_unwind(run).is_err());
            assert!(current::with(|frame| frame.is_none()));
            let kind = token.and_then(|token| token.reason()).map(|reason| reason.kind());
            assert_eq!(kind, Some(ReasonKind::Closed));
        });
    }
}
