//! Tokens, reasons, callbacks, limits of jobs: what a cancel reaches, who hears of it, and what it says.

use crate::{guarded, virtually};
use crossbeam::channel::{RecvError, TryRecvError, never, select};
use std::{
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};
use tassel::{
    CancelToken, JoinError, Reason, ReasonKind, ScopeOptions, checkpoint, now,
    pool::Pool,
    region::{TimedOut, move_on_after},
    scope, sleep,
    sync::Event,
};

const HOUR: Duration = Duration::from_secs(3600);
const TINY: Duration = Duration::from_millis(2);

fn reason(token: &CancelToken) -> Reason {
    token.reason().expect("it is cancelled")
}

/// Registers a callback that counts its calls.
fn count(token: &CancelToken, calls: &Arc<AtomicUsize>) -> tassel::OnCancel {
    let calls = Arc::clone(calls);
    token.on_cancel(move || {
        calls.fetch_add(1, Ordering::SeqCst);
    })
}

fn called(calls: &AtomicUsize) -> usize {
    calls.load(Ordering::SeqCst)
}

// S31:
#[test]
fn a_cancel_reaches_everything_below_and_nothing_else() {
    guarded(|| {
        let root = CancelToken::new();
        let (left, right) = (root.child(), root.child());
        let (below, beside) = (left.child(), left.child());
        below.cancel();
        assert_eq!(
            [&root, &left, &right, &below, &beside].map(CancelToken::is_cancelled),
            [false, false, false, true, false]
        );
        left.cancel();
        assert_eq!(
            [&root, &left, &right, &below, &beside].map(CancelToken::is_cancelled),
            [false, true, false, true, true]
        );
        root.cancel();
        assert_eq!([&root, &left, &right, &below, &beside].map(CancelToken::is_cancelled), [true; 5]);
        assert!(root.child().is_cancelled(), "a child of a cancelled token is born cancelled");
        assert_eq!(reason(&root.child()).place(), reason(&root).place());
    });
}

// S31:
#[test]
fn a_cancel_is_met_again_at_every_checkpoint() {
    virtually(|| {
        let stopped = scope(|s| {
            s.cancel();
            for _ in 0..3 {
                assert!(checkpoint().is_err() && sleep(HOUR).is_err() && tassel::yield_now().is_err());
                assert!(tassel::is_cancelled() && s.is_cancelled());
            }
            // Inside what is opened below, too.
            scope(|s| {
                assert!(s.is_cancelled());
                checkpoint().unwrap_err();
                Ok(())
            })
            .unwrap();
            Ok(())
        });
        stopped.unwrap();
    });
}

// S32, S51:
#[test]
fn the_first_cause_wins_and_a_second_cancel_changes_nothing() {
    guarded(|| {
        let token = CancelToken::new();
        assert!(token.reason().is_none() && !token.is_cancelled());
        token.cancel_with("first");
        let first = reason(&token);
        token.cancel_with("second");
        token.cancel();
        token.cancel_by_signal("SIGINT");
        let last = reason(&token);
        assert_eq!((first.text(), last.text(), last.kind()), (Some("first"), Some("first"), ReasonKind::Explicit));
        assert_eq!((first.at(), first.place()), (last.at(), last.place()));
        // Neither from above.
        let (root, child) = (CancelToken::new(), CancelToken::new());
        let grandchild = child.child();
        grandchild.cancel_with("own");
        child.cancel_with("above");
        root.cancel();
        assert_eq!((reason(&child).text(), reason(&grandchild).text()), (Some("above"), Some("own")));
    });
}

// S32:
#[test]
fn many_threads_may_cancel_one_token_at_once() {
    guarded(|| {
        for _ in 0..20 {
            let (token, calls) = (CancelToken::new(), Arc::default());
            let below: Vec<_> = (0..20).map(|_| token.child()).collect();
            let _registered = count(&below[7], &calls);
            let start = Barrier::new(4);
            thread::scope(|t| {
                for _ in 0..4 {
                    t.spawn(|| {
                        start.wait();
                        token.cancel();
                        assert!(
                            below.iter().all(CancelToken::is_cancelled),
                            "marked when a cancel returns, also a second"
                        );
                    });
                }
            });
            assert_eq!(called(&calls), 1);
        }
    });
}

// S51:
#[test]
fn a_reason_tells_kind_text_who_where_and_when() {
    virtually(|| {
        let group = ScopeOptions::new()
            .name("crawl")
            .open(|s| {
                sleep(HOUR)?;
                s.cancel_with("enough");
                Ok(checkpoint()?)
            })
            .unwrap_err();
        let line = line!() - 4;
        let reason = group.primary().stop().unwrap().reason().clone();
        assert_eq!(
            (reason.kind(), reason.text(), reason.who().as_str()),
            (ReasonKind::Explicit, Some("enough"), "scope `crawl`")
        );
        let place = reason.place().unwrap();
        assert_eq!((place.file(), place.line()), ("tests/it/cancel.rs", line));
        assert_eq!(reason.at(), now());
        assert_eq!(reason.to_string(), format!("cancelled: enough (tests/it/cancel.rs:{line})"));
        let told = format!("scope `crawl` was stopped: cancelled: enough (tests/it/cancel.rs:{line})");
        assert_eq!(group.primary().stop().unwrap().to_string(), told);
        assert_eq!(group.to_string(), told);
    });
}

// S51, D26:
#[test]
fn reasons_are_those_of_the_origin_whatever_relays_them() {
    virtually(|| {
        let (met, met_too) = (Mutex::new(None), &Mutex::new(None));
        let group = ScopeOptions::new()
            .name("outer")
            .open(|s| {
                s.job("deep").spawn(|| {
                    ScopeOptions::new().name("inner").open(|s| {
                        s.job("deeper").spawn(|| {
                            let stop = move_on_after(9 * HOUR, || Ok(sleep(10 * HOUR)?)).unwrap_err();
                            *met_too.lock().unwrap() = stop.downcast_ref::<tassel::Cancelled>().cloned();
                            Err::<(), _>(stop)
                        });
                        Ok(())
                    })?;
                    Ok(())
                });
                s.job("fails").spawn(|| -> tassel::Result<()> {
                    sleep(HOUR)?;
                    anyhow::bail!("disk full")
                });
                *met.lock().unwrap() = sleep(10 * HOUR).err();
                Ok(())
            })
            .unwrap_err();
        assert_eq!(group.len(), 1);
        for stop in [met.into_inner().unwrap(), met_too.lock().unwrap().clone()] {
            let reason = stop.unwrap().reason().clone();
            assert_eq!((reason.kind(), reason.who().as_str()), (ReasonKind::Failure, "job `fails`"));
            assert_eq!(reason.to_string(), "job `fails` failed");
        }
    });
}

// D26, S51:
#[test]
fn each_kind_of_stop_shows_its_kind() {
    virtually(|| {
        let deadline = ScopeOptions::new().name("s").timeout(HOUR).open(|_| Ok(sleep(10 * HOUR)?)).unwrap_err();
        let deadline = deadline.reason().unwrap().clone();
        assert_eq!(
            (deadline.kind(), deadline.who().as_str(), deadline.at()),
            (ReasonKind::Deadline, "scope `s`", now())
        );
        assert!(deadline.to_string().starts_with("deadline of 3600s (tests/it/cancel.rs:"), "{deadline}");
        let body =
            ScopeOptions::new().name("s").open(|_| -> tassel::Result<()> { anyhow::bail!("broke") }).unwrap_err();
        let body = body.reason().unwrap().clone();
        assert_eq!((body.kind(), body.to_string().as_str()), (ReasonKind::Failure, "the body failed"));
        let signal = CancelToken::new();
        signal.cancel_by_signal("SIGINT");
        let group = ScopeOptions::new().under(&signal).open(|_| Ok(checkpoint()?)).unwrap_err();
        let signal = group.primary().stop().unwrap().reason().clone();
        assert_eq!((signal.kind(), signal.text()), (ReasonKind::Signal, Some("SIGINT")));
        let left = scope(|s| Ok(s.token())).unwrap();
        assert_eq!(reason(&left).kind(), ReasonKind::Closed);
    });
}

// S32:
#[test]
fn a_cancel_before_entry_lets_the_body_start_and_fails_its_first_checkpoint() {
    guarded(|| {
        let token = CancelToken::new();
        token.cancel_with("closed today");
        let started = AtomicBool::new(false);
        let group = ScopeOptions::new()
            .under(&token)
            .open(|_| {
                started.store(true, Ordering::SeqCst);
                Ok(checkpoint()?)
            })
            .unwrap_err();
        assert!(started.into_inner() && !group.stopped());
        assert_eq!(group.primary().stop().unwrap().reason().text(), Some("closed today"));
    });
}

// D25, S32:
#[test]
fn a_token_of_a_scope_that_was_left_is_cancelled_and_changes_nothing() {
    guarded(|| {
        let calls = Arc::default();
        let (token, child, registered) = scope(|s| {
            let token = s.token();
            let child = token.child();
            assert!(!token.is_cancelled() && !child.is_cancelled());
            let registered = [count(&token, &calls), count(&child, &calls)];
            Ok((token, child, registered))
        })
        .unwrap();
        assert!(token.is_cancelled() && child.is_cancelled() && token.child().is_cancelled());
        assert!(token.enter(checkpoint).is_err());
        assert!(token.bind(checkpoint)().is_err());
        assert_eq!([&token, &child].map(|token| reason(token).kind()), [ReasonKind::Closed; 2]);
        token.cancel_with("too late");
        assert_eq!((reason(&token).kind(), reason(&token).text()), (ReasonKind::Closed, None));
        let late = count(&token, &calls);
        drop((registered, late));
        assert_eq!(called(&calls), 0, "no callback runs for reason *closed*");
    });
}

// D25:
#[test]
fn a_token_of_a_region_that_was_left_is_closed_but_for_an_earlier_cause() {
    virtually(|| {
        let left = move_on_after(HOUR, || Ok(CancelToken::current())).unwrap().unwrap();
        assert_eq!(reason(&left).kind(), ReasonKind::Closed);
        let (send, receive) = mpsc::channel();
        let none = move_on_after(HOUR, || {
            send.send(CancelToken::current())?;
            Ok(sleep(10 * HOUR)?)
        });
        assert_eq!(none.unwrap(), None);
        let fired = receive.recv().unwrap();
        assert_eq!(reason(&fired).kind(), ReasonKind::Deadline);
        let cancelled = move_on_after(HOUR, || {
            CancelToken::current().cancel();
            Ok(CancelToken::current())
        });
        assert_eq!(reason(&cancelled.unwrap().unwrap()).kind(), ReasonKind::Explicit);
    });
}

// D25:
#[test]
fn dropping_a_token_never_cancels() {
    guarded(|| {
        let token = CancelToken::new();
        let child = token.child();
        drop(token.clone());
        drop(token);
        assert!(!child.is_cancelled());
        let receiver = child.receiver();
        drop(child);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty), "and so the channel stays silent");
    });
}

// D3:
#[test]
fn current_is_the_region_else_the_job_else_the_scope() {
    guarded(|| {
        let outside = CancelToken::current();
        outside.cancel();
        checkpoint().expect("a fresh token is nobody's parent");
        scope(|s| {
            let region = move_on_after(HOUR, || {
                CancelToken::current().cancel();
                Ok(checkpoint()?)
            });
            assert_eq!(region.unwrap(), None);
            let job = s.spawn(|| {
                CancelToken::current().cancel_with("mine");
                Ok(checkpoint()?)
            });
            match job.join() {
                Err(JoinError::Cancelled { reason, started: true, .. }) => assert_eq!(reason.text(), Some("mine")),
                other => panic!("{other:?}"),
            }
            checkpoint().expect("neither of them was the scope");
            CancelToken::current().cancel();
            assert!(s.is_cancelled());
            Ok(())
        })
        .unwrap();
    });
}

// D3, D25:
#[test]
fn bind_carries_a_token_to_another_thread() {
    guarded(|| {
        let token = CancelToken::new();
        let (send, receive) = mpsc::channel();
        let bound = token.bind(move || {
            send.send(CancelToken::current().is_cancelled()).unwrap();
            sleep(Duration::MAX).unwrap_err().reason().text().map(str::to_owned)
        });
        let thread = thread::spawn(bound);
        assert!(!receive.recv().unwrap());
        token.cancel_with("go home");
        assert_eq!(thread.join().unwrap().as_deref(), Some("go home"));
    });
}

// D25, D3:
#[test]
fn a_bound_thread_does_not_hold_the_scope_open() {
    guarded(|| {
        let (send, receive) = mpsc::channel::<()>();
        let thread = scope(|s| {
            let bound = s.token().bind(move || {
                receive.recv().unwrap_err();
                checkpoint().unwrap_err().reason().kind()
            });
            Ok(thread::spawn(bound))
        })
        .unwrap();
        drop(send);
        assert_eq!(thread.join().unwrap(), ReasonKind::Closed);
    });
}

// D26, S31:
#[test]
fn a_scope_under_a_token_has_two_parents() {
    virtually(|| {
        let token = CancelToken::new();
        let met = scope(|_| {
            let by_token = ScopeOptions::new().under(&token).open(|s| {
                s.spawn(|| {
                    sleep(HOUR)?;
                    token.cancel_with("token");
                    Ok(())
                });
                Ok(sleep(10 * HOUR)?)
            });
            let group = by_token.unwrap_err();
            assert!(!group.stopped(), "it came from outside");
            checkpoint().expect("the other parent is not cancelled");
            Ok(group.primary().stop().unwrap().reason().text().map(str::to_owned))
        });
        assert_eq!(met.unwrap().as_deref(), Some("token"));
        let other = CancelToken::new();
        let group = scope(|s| {
            s.cancel_with("scope");
            let group = ScopeOptions::new().under(&other).open(|_| Ok(checkpoint()?)).unwrap_err();
            assert!(!other.is_cancelled());
            Err::<(), _>(group.into())
        });
        assert_eq!(group.unwrap_err().primary().stop().unwrap().reason().text(), Some("scope"));
    });
}

// D26:
#[test]
fn the_deadline_of_a_token_is_the_effective_one_and_stays_readable() {
    virtually(|| {
        let began = now();
        assert_eq!(CancelToken::new().deadline(), None);
        let kept = ScopeOptions::new().timeout(2 * HOUR).open(|s| {
            assert_eq!(s.token().deadline(), Some(began + 2 * HOUR));
            let inner = move_on_after(HOUR, || Ok(CancelToken::current().deadline())).unwrap().unwrap();
            assert_eq!(inner, Some(began + HOUR));
            let outer = move_on_after(10 * HOUR, || Ok(CancelToken::current().child().deadline())).unwrap().unwrap();
            assert_eq!(outer, Some(began + 2 * HOUR));
            assert!(sleep(10 * HOUR).is_err());
            Ok(s.token())
        });
        assert_eq!(kept.unwrap().deadline(), Some(began + 2 * HOUR));
        assert_eq!(now() - began, 2 * HOUR);
    });
}

// S23, S31:
#[test]
fn a_chain_of_a_hundred_thousand_tokens_cancels_and_drops_on_a_small_stack() {
    guarded(|| {
        let small = thread::Builder::new().stack_size(2 << 20);
        let thread = small.spawn(|| {
            let chain = || {
                let root = CancelToken::new();
                let last = (0..100_000).fold(root.clone(), |token, _| token.child());
                (root, last)
            };
            let (root, last) = chain();
            assert!(!last.is_cancelled());
            root.cancel_with("all");
            assert_eq!(reason(&last).text(), Some("all"));
            drop(root);
            drop(last);
            // Uncancelled, and the other way round.
            let (root, last) = chain();
            drop(last);
            drop(root);
        });
        thread.unwrap().join().unwrap();
    });
}

// Callbacks.

// S52, D15:
#[test]
fn a_callback_runs_once_on_the_cancelling_thread_outside_any_scope() {
    guarded(|| {
        let (token, calls) = (CancelToken::new(), Arc::<AtomicUsize>::default());
        let (below, ran_on) = (token.child(), Arc::new(Mutex::new(None)));
        let (counted, told) = (Arc::clone(&calls), Arc::clone(&ran_on));
        let registered = below.on_cancel(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            *told.lock().unwrap() = Some((thread::current().id(), tassel::is_cancelled()));
        });
        assert_eq!(called(&calls), 0);
        token.enter(|| token.cancel());
        token.cancel();
        below.cancel();
        assert_eq!(called(&calls), 1);
        assert_eq!(*ran_on.lock().unwrap(), Some((thread::current().id(), false)));
        drop(registered);
        assert_eq!(called(&calls), 1);
    });
}

// S52:
#[test]
fn a_callback_registered_late_runs_at_once_on_the_caller() {
    guarded(|| {
        let (token, calls) = (CancelToken::new(), Arc::default());
        token.cancel();
        let registered = count(&token, &calls);
        assert_eq!(called(&calls), 1);
        drop(registered);
        drop(count(&token.child(), &calls));
        assert_eq!(called(&calls), 2);
    });
}

// S52:
#[test]
fn a_dropped_registration_is_not_called() {
    guarded(|| {
        let (token, calls) = (CancelToken::new(), Arc::default());
        drop(count(&token, &calls));
        let kept = count(&token, &calls);
        token.cancel();
        assert_eq!(called(&calls), 1);
        drop(kept);
    });
}

// S52:
#[test]
fn dropping_a_registration_waits_for_the_running_callback() {
    guarded(|| {
        let token = CancelToken::new();
        let (entered, leave) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let over = Arc::new(AtomicBool::new(false));
        let registered = token.on_cancel({
            let (entered, leave, over) = (Arc::clone(&entered), Arc::clone(&leave), Arc::clone(&over));
            move || {
                entered.wait();
                leave.wait();
                over.store(true, Ordering::SeqCst);
            }
        });
        thread::scope(|t| {
            t.spawn(|| token.cancel());
            entered.wait();
            let dropper = t.spawn(|| {
                drop(registered);
                over.load(Ordering::SeqCst)
            });
            leave.wait();
            assert!(dropper.join().unwrap(), "the drop returned while the callback ran");
        });
    });
}

// S52, D15:
#[test]
fn dropping_a_registration_inside_its_own_callback_does_not_wait() {
    guarded(|| {
        let token = CancelToken::new();
        let slot = Arc::new(Mutex::new(None));
        let registered = token.on_cancel({
            let slot = Arc::clone(&slot);
            move || drop(slot.lock().unwrap().take())
        });
        *slot.lock().unwrap() = Some(registered);
        token.cancel();
        assert!(slot.lock().unwrap().is_none());
    });
}

// S52:
#[test]
fn a_panicking_callback_is_isolated() {
    guarded(|| {
        let (token, calls) = (CancelToken::new(), Arc::default());
        let first = count(&token, &calls);
        let panics = token.on_cancel(|| panic!("in a callback"));
        let last = count(&token, &calls);
        token.cancel();
        assert!(token.is_cancelled());
        assert_eq!(called(&calls), 2);
        drop(token.on_cancel(|| panic!("in a late callback")));
        drop((first, panics, last));
    });
}

// S52, S32:
#[test]
fn a_callback_may_cancel_register_and_unregister() {
    guarded(|| {
        let (token, other, calls) = (CancelToken::new(), CancelToken::new(), Arc::default());
        let (other_registered, unneeded) = (count(&other, &calls), count(&other.child(), &calls));
        let registered = token.on_cancel({
            let (token, other, calls) = (token.clone(), other.clone(), Arc::clone(&calls));
            move || {
                drop(unneeded);
                token.cancel();
                other.cancel();
                drop(count(&token, &calls));
                drop(token.child().receiver());
            }
        });
        token.cancel();
        assert!(other.is_cancelled());
        assert_eq!(called(&calls), 2);
        drop((registered, other_registered));
    });
}

// D15, S52:
#[test]
fn when_a_callback_runs_everything_below_is_marked() {
    guarded(|| {
        let token = CancelToken::new();
        let below: Vec<_> = (0..10).map(|_| token.child()).collect();
        let all = Arc::new(AtomicBool::new(false));
        let registered = below[0].on_cancel({
            let (below, all) = (below.clone(), Arc::clone(&all));
            move || all.store(below.iter().all(CancelToken::is_cancelled), Ordering::SeqCst)
        });
        token.cancel();
        assert!(all.load(Ordering::SeqCst));
        drop(registered);
    });
}

// D15:
#[test]
fn a_callback_of_a_scope_borrows_and_its_panic_is_a_failure() {
    virtually(|| {
        let mut called = 0;
        scope(|s| {
            let registered = s.on_cancel(|| called += 1);
            s.cancel();
            drop(registered);
            Ok(())
        })
        .unwrap();
        assert_eq!(called, 1);
        let group = scope(|s| {
            let registered = s.on_cancel(|| panic!("in a callback"));
            s.cancel();
            drop(registered);
            Ok(())
        })
        .unwrap_err();
        assert_eq!((group.len(), group.primary().panic_message()), (1, Some("in a callback")));
        let mut called = 0;
        scope(|s| {
            drop(s.on_cancel(|| called += 1));
            Ok(())
        })
        .unwrap();
        assert_eq!(called, 0);
    });
}

// receiver()

// S31, D25:
#[test]
fn a_receiver_has_no_message_and_disconnects_on_the_cancel() {
    guarded(|| {
        let token = CancelToken::new();
        let (early, below) = (token.receiver(), token.child().receiver());
        assert_eq!([early.try_recv(), below.try_recv()], [Err(TryRecvError::Empty); 2]);
        thread::scope(|t| {
            let waits = t.spawn(|| early.recv());
            let selects = t.spawn(|| select! { recv(below) -> got => got, recv(never::<()>()) -> _ => unreachable!() });
            token.cancel();
            assert_eq!([waits.join().unwrap(), selects.join().unwrap()], [Err(RecvError); 2]);
        });
        assert_eq!(token.receiver().try_recv(), Err(TryRecvError::Disconnected), "made late, disconnected at once");
    });
}

// D25:
#[test]
fn a_receiver_of_a_scope_that_is_left_disconnects() {
    guarded(|| {
        let (early, token) = scope(|s| Ok((s.token().receiver(), s.token()))).unwrap();
        assert_eq!([early.try_recv(), token.receiver().try_recv()], [Err(TryRecvError::Disconnected); 2]);
    });
}

// Deadlines that somebody only observes fire all the same; in real time.

// S58, D17:
#[test]
fn a_deadline_seen_only_by_a_thread_in_select_fires() {
    guarded(|| {
        ScopeOptions::new()
            .timeout(TINY)
            .open(|s| {
                let stop = s.token().receiver();
                let selects = thread::spawn(move || {
                    select! { recv(stop) -> got => assert_eq!(got, Err(RecvError)), recv(never::<()>()) -> _ => unreachable!() }
                });
                selects.join().unwrap();
                assert_eq!(reason(&s.token()).kind(), ReasonKind::Deadline);
                Ok(())
            })
            .unwrap();
    });
}

// S52, D15:
#[test]
fn a_deadline_seen_only_by_a_callback_fires() {
    guarded(|| {
        ScopeOptions::new()
            .timeout(TINY)
            .open(|s| {
                let (send, receive) = mpsc::channel();
                let registered = s.token().on_cancel(move || send.send(()).unwrap());
                receive.recv().expect("the callback runs");
                assert_eq!(reason(&s.token()).kind(), ReasonKind::Deadline);
                drop(registered);
                Ok(())
            })
            .unwrap();
    });
}

// S58, S31:
#[test]
fn a_deadline_seen_only_by_a_loop_fires() {
    guarded(|| {
        ScopeOptions::new()
            .timeout(TINY)
            .open(|s| {
                let token = s.token().child();
                let looks = thread::spawn(move || {
                    while !token.is_cancelled() {
                        thread::yield_now();
                    }
                    reason(&token).kind()
                });
                assert_eq!(looks.join().unwrap(), ReasonKind::Deadline);
                Ok(())
            })
            .unwrap();
    });
}

// One job.

// S47, D2:
#[test]
fn cancelling_one_running_job_stops_its_subtree_only() {
    virtually(|| {
        let (began, inner_stopped) = (now(), AtomicBool::new(false));
        let value = scope(|s| {
            let sibling = s.spawn(|| {
                sleep(10 * HOUR)?;
                Ok(7)
            });
            let job = s.job("x").spawn(|| {
                scope(|s| {
                    s.spawn(|| {
                        let stop = sleep(10 * HOUR).unwrap_err();
                        assert_eq!(stop.reason().who(), "job `x`");
                        inner_stopped.store(true, Ordering::SeqCst);
                        Err::<(), _>(stop.into())
                    });
                    Ok(())
                })?;
                Ok(())
            });
            sleep(HOUR)?;
            job.cancel_with("not needed");
            job.cancel_with("twice");
            assert!(!s.is_cancelled() && checkpoint().is_ok());
            match job.join() {
                Err(JoinError::Cancelled { started: true, reason, .. }) => {
                    assert_eq!(reason.text(), Some("not needed"));
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(now() - began, HOUR);
            Ok(sibling.join()?)
        });
        assert_eq!((value.unwrap(), inner_stopped.into_inner()), (7, true));
    });
}

// S47, D6, S42:
#[test]
fn cancelling_a_queued_job_keeps_it_from_starting() {
    virtually(|| {
        let ran = AtomicBool::new(false);
        let value = scope(|s| {
            let ran = &ran;
            let job = s.job("x").spawn(move || ran.store(true, Ordering::SeqCst));
            let sibling = s.spawn(|| Ok(7));
            job.cancel_with("not needed");
            assert!(job.is_finished());
            match job.join() {
                Err(JoinError::Cancelled { started: false, reason, .. }) => {
                    assert_eq!(reason.text(), Some("not needed"));
                }
                other => panic!("{other:?}"),
            }
            assert!(!s.is_cancelled());
            Ok(sibling.join()?)
        });
        assert_eq!((value.unwrap(), ran.into_inner()), (7, false));
    });
}

// D2, D6:
#[test]
fn a_queued_job_whose_token_is_cancelled_is_answered_at_once_and_against_the_scopes_will() {
    virtually(|| {
        let (began, ran) = (now(), AtomicBool::new(false));
        let pool = Pool::builder().refuse_threads(|_| true).build().unwrap();
        let group = ScopeOptions::new().pool(&pool).open(|s| {
            let job = s.job("x").spawn(|| ran.store(true, Ordering::SeqCst));
            let token = job.token();
            let unplug = CancelToken::current().bind(move || {
                sleep(HOUR).unwrap();
                token.cancel_with("unplugged");
            });
            let unplug = thread::spawn(unplug);
            match job.join_timeout(10 * HOUR).unwrap() {
                Err(JoinError::Cancelled { started: false, reason, .. }) => {
                    assert_eq!(reason.text(), Some("unplugged"));
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(now() - began, HOUR);
            assert!(!s.is_cancelled());
            unplug.join().unwrap();
            Ok(7)
        });
        let group = group.unwrap_err();
        assert_eq!((group.len(), group.stopped()), (1, false));
        assert_eq!(group.primary().stop().unwrap().reason().text(), Some("unplugged"));
        assert!(!ran.into_inner());
    });
}

// D25, D3:
#[test]
fn the_token_of_a_handle_is_that_of_the_job_and_stops_with_it() {
    virtually(|| {
        let value = scope(|s| {
            let job = s.job("x").spawn(|| {
                sleep(HOUR)?;
                Ok(CancelToken::current().deadline().is_some())
            });
            let token = job.token();
            token.set_deadline(Some(now() + 2 * HOUR));
            let timed = job.join()?;
            assert_eq!(reason(&token).kind(), ReasonKind::Closed);
            let done = s.spawn(|| Ok(()));
            while !done.is_finished() {
                sleep(TINY)?;
            }
            // One that nobody asked for before.
            assert_eq!(reason(&done.token()).kind(), ReasonKind::Closed);
            done.token().cancel();
            Ok(timed)
        });
        assert!(value.unwrap());
    });
}

// S47, S15:
#[test]
fn a_job_that_cancels_itself_is_no_failure() {
    virtually(|| {
        let value = scope(|s| {
            s.spawn(|| {
                CancelToken::current().cancel();
                Ok(checkpoint()?)
            });
            sleep(HOUR)?;
            assert!(!s.is_cancelled());
            Ok(7)
        });
        assert_eq!(value.unwrap(), 7);
    });
}

// S41, S47:
#[test]
fn a_cancelled_job_that_returns_a_value_has_that_value() {
    virtually(|| {
        let value = scope(|s| {
            let job = s.spawn(|| {
                assert!(sleep(10 * HOUR).is_err());
                Ok(7)
            });
            sleep(HOUR)?;
            job.cancel();
            Ok(job.join()?)
        });
        assert_eq!(value.unwrap(), 7);
    });
}

// S58, S61:
#[test]
fn the_timeout_of_a_job_is_a_failure_and_counts_from_the_spawn() {
    virtually(|| {
        let began = now();
        let group = ScopeOptions::new()
            .name("s")
            .open(|s| {
                s.job("slow").timeout(HOUR).spawn(|| Ok(sleep(10 * HOUR)?));
                s.job("quick").timeout(2 * HOUR).spawn(|| Ok(sleep(HOUR / 2)?));
                Ok(sleep(10 * HOUR)?)
            })
            .unwrap_err();
        assert_eq!((group.len(), group.primary().offset(), now() - began), (1, HOUR, HOUR));
        let leaf = group.primary();
        assert_eq!(leaf.to_string(), "job `slow` timed out");
        let error = leaf.downcast_ref::<TimedOut>().unwrap();
        assert_eq!((error.reason().kind(), error.reason().who().as_str()), (ReasonKind::Deadline, "job `slow`"));
        assert!(
            error.to_string().starts_with("job `slow` timed out: deadline of 3600s (tests/it/cancel.rs:"),
            "{error}"
        );
        assert_eq!(group.reason().unwrap().kind(), ReasonKind::Failure);
        assert_eq!(group.to_string(), "scope `s`: 1 of 2 jobs failed; first: job `slow` timed out");
    });
}

// S58, D9:
#[test]
fn a_job_whose_time_passed_in_the_queue_fails_without_running() {
    virtually(|| {
        let ran = AtomicBool::new(false);
        let group = scope(|s| {
            let ran = &ran;
            let job = s.job("late").timeout(Duration::ZERO).spawn(move || ran.store(true, Ordering::SeqCst));
            let joined = job.join();
            assert!(matches!(joined, Err(JoinError::Failed { .. })), "{joined:?}");
            Ok(())
        })
        .unwrap_err();
        assert!(!ran.into_inner());
        assert_eq!((group.len(), group.primary().to_string().as_str()), (1, "job `late` timed out"));
    });
}

// S41, S61:
#[test]
fn a_job_that_swallows_its_timeout_and_returns_a_value_has_it() {
    virtually(|| {
        let value = scope(|s| {
            let job = s.job("x").timeout(HOUR).spawn(|| {
                assert!(sleep(10 * HOUR).is_err());
                Ok(7)
            });
            Ok(job.join()?)
        });
        assert_eq!(value.unwrap(), 7);
    });
}

// D5, S64:
#[test]
fn the_timeout_of_an_isolated_job_belongs_to_its_handle() {
    virtually(|| {
        scope(|s| {
            let job = s.job("x").isolated().timeout(HOUR).spawn(|| Ok(sleep(10 * HOUR)?));
            let leaf = job.join()?.unwrap_err();
            assert!(leaf.downcast_ref::<TimedOut>().is_some());
            checkpoint()?;
            Ok(())
        })
        .unwrap();
    });
}

// S40, S46:
#[test]
fn a_cancel_wakes_the_waits_of_a_whole_tree_and_the_exit_still_waits_for_it() {
    virtually(|| {
        let (token, began, home) = (CancelToken::new(), now(), AtomicUsize::new(0));
        let event = Event::new();
        let group = ScopeOptions::new().under(&token).open(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    let met = scope(|s| {
                        s.spawn(|| Ok(event.wait()?));
                        s.spawn(|| Ok(sleep(10 * HOUR)?)).join()?;
                        Ok(())
                    });
                    // Cleanup where the cancel is not seen: the exits wait for it.
                    CancelToken::new().enter(|| sleep(HOUR))?;
                    home.fetch_add(1, Ordering::SeqCst);
                    Ok(met?)
                });
            }
            s.spawn(|| {
                sleep(HOUR)?;
                token.cancel();
                Ok(())
            });
            Ok(())
        });
        let group = group.unwrap_err();
        assert_eq!((group.len(), home.into_inner(), now() - began), (1, 4, 2 * HOUR));
        assert!(group.primary().stop().is_some() && !group.stopped());
    });
}

// D2:
#[test]
fn a_job_that_its_handle_cancels_after_a_token_was_stopped_by_the_token() {
    virtually(|| {
        for start in [false, true] {
            let stopped = scope(|s| {
                let job = s.spawn(|| Ok(sleep(HOUR)?));
                if start {
                    sleep(TINY)?;
                }
                s.token().cancel();
                job.cancel();
                Ok(7)
            });
            assert_eq!(stopped.unwrap_err().reason().map(Reason::kind), Some(ReasonKind::Explicit), "started: {start}");
        }
    });
}

// D2, S7:
#[test]
fn a_job_whose_time_ran_out_in_the_queue_was_not_stopped_by_a_later_token() {
    virtually(|| {
        let pool = Pool::builder().refuse_threads(|_| true).build().unwrap();
        let value = ScopeOptions::new().pool(&pool).open(|s| {
            let late = s.job("late").isolated().timeout(TINY).spawn(|| Ok(()));
            sleep(HOUR)?;
            assert!(late.join()?.unwrap_err().downcast_ref::<TimedOut>().is_some());
            // Its captures are still to be dropped.
            s.token().cancel();
            Ok(7)
        });
        assert_eq!(value.unwrap(), 7);
    });
}
