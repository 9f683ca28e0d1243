//! Waits on the user's channels: one outcome each, at once on a cancel, and nothing is lost.

use crate::{guarded, named, told, virtually};
use anyhow::Context as _;
use std::{
    fmt::Write as _,
    hint, io,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use tassel::{
    CancelToken, Scope, ScopeOptions,
    channel::{self, Receiver, RecvError, SendError, Sender, bounded, unbounded},
    checkpoint, is_cancelled, now,
    pool::Pool,
    region::{fail_after, move_on_after},
    scope, sleep, snapshot,
    sync::Barrier,
    testing::{try_virtual_time, virtual_time},
    yield_now,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A token that is cancelled.
fn cancelled() -> CancelToken {
    let token = CancelToken::new();
    token.cancel();
    token
}

/// Spins until so many jobs of the scope wait in a call.
fn until_waiting(s: &Scope<'_, '_>, on: &str, count: usize) {
    let waits = |entry: &&snapshot::Entry| entry.state.to_string() == format!("waiting in {on}");
    while snapshot::of(s).entries.iter().filter(waits).count() < count {
        thread::yield_now();
    }
}

/// What a job returns in whose call, as soon as it waits, `then` is called with a token that stops it.
fn meanwhile<T: Send>(on: &str, job: impl FnOnce() -> T + Send, then: impl FnOnce(&CancelToken)) -> T {
    let returned = Mutex::new(None);
    let put = &returned;
    let token = CancelToken::new();
    let _ = ScopeOptions::new().under(&token).inline(false).open(|s| {
        s.spawn(move || *put.lock().unwrap() = Some(job()));
        until_waiting(s, on, 1);
        then(&token);
        Ok(())
    });
    returned.into_inner().unwrap().expect("the job has ended")
}

// S37, D24: on entry
#[test]
fn a_cancelled_place_takes_and_sends_nothing() {
    guarded(|| {
        let (sender, receiver) = bounded(2);
        sender.send(1).unwrap();
        cancelled().enter(|| {
            assert!(matches!(channel::recv(&receiver), Err(RecvError::Cancelled(_))));
            assert!(matches!(channel::recv_timeout(&receiver, Duration::ZERO), Err(RecvError::Cancelled(_))));
            assert!(matches!(channel::recv_deadline(&receiver, now()), Err(RecvError::Cancelled(_))));
            assert!(matches!(channel::send(&sender, 2), Err(SendError::Cancelled(2, _))));
            assert!(matches!(channel::send_timeout(&sender, 3, HOUR), Err(SendError::Cancelled(3, _))));
            assert!(matches!(channel::send_deadline(&sender, 4, now()), Err(SendError::Cancelled(4, _))));
            let mut iter = channel::iter(&receiver);
            assert!(matches!(iter.next(), Some(Err(_))));
            assert!(iter.next().is_none(), "told once");
        });
        assert_eq!(receiver.len(), 1);
    });
}

// S38, D24: the rest after a stop
#[test]
fn what_is_left_after_a_stop_is_taken_by_what_asks_nobody() {
    guarded(|| {
        let (sender, receiver) = bounded(3);
        cancelled().enter(|| {
            assert!(sender.try_send(1).is_ok() && sender.try_send(2).is_ok());
            assert_eq!(receiver.try_recv(), Ok(1));
            assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [2]);
        });
    });
}

// D3: outside any scope
#[test]
fn outside_any_scope_it_is_the_plain_call() {
    guarded(|| {
        let (sender, receiver) = bounded(0);
        let thread = thread::spawn(move || channel::send(&sender, 7).is_ok());
        assert_eq!(channel::recv(&receiver).unwrap(), 7);
        assert!(thread.join().unwrap());
        assert!(matches!(channel::recv(&receiver), Err(RecvError::Closed)));
        assert!(channel::iter(&receiver).next().is_none());
    });
}

/// The three kinds of channels.
fn kinds() -> [(Sender<u32>, Receiver<u32>); 3] {
    [bounded(0), bounded(1), unbounded()]
}

// S40: wakes at once
#[test]
fn a_cancel_wakes_who_receives_on_any_kind_of_channel() {
    guarded(|| {
        for (sender, receiver) in kinds() {
            let received = meanwhile("recv", || channel::recv(&receiver), CancelToken::cancel);
            assert!(matches!(received, Err(RecvError::Cancelled(_))));
            // Nothing of it is left in the channel.
            if sender.capacity() == Some(0) {
                assert!(sender.try_send(1).is_err());
            } else {
                assert!(sender.try_send(1).is_ok());
                assert_eq!(receiver.try_recv(), Ok(1));
            }
        }
    });
}

// S40, S41: an unsent value comes back
#[test]
fn a_cancel_wakes_who_sends_and_the_value_comes_back() {
    guarded(|| {
        for room in [0, 1] {
            let (sender, receiver) = bounded(room);
            (0..room).for_each(|_| sender.send(Box::new(0)).unwrap());
            let error =
                meanwhile("send", move || channel::send(&sender, Box::new(7)), CancelToken::cancel).unwrap_err();
            assert!(matches!(error, SendError::Cancelled(..)));
            assert_eq!(*error.into_value(), 7);
            assert_eq!(receiver.iter().count(), room);
        }
    });
}

#[test]
fn the_last_one_at_the_other_end_ends_a_wait() {
    guarded(|| {
        for (sender, receiver) in kinds() {
            let received = meanwhile("recv", || channel::recv(&receiver), |_| drop(sender));
            assert!(matches!(received, Err(RecvError::Closed)));
        }
        for room in [0, 1] {
            let (sender, receiver) = bounded(room);
            (0..room).for_each(|_| sender.send(0).unwrap());
            let sent = meanwhile("send", || channel::send(&sender, 7), |_| drop(receiver));
            assert!(matches!(sent, Err(SendError::Closed(7))));
        }
    });
}

#[test]
fn a_plain_call_at_the_other_end_ends_a_wait() {
    guarded(|| {
        for (sender, receiver) in kinds() {
            let received = meanwhile("recv", || channel::recv(&receiver), |_| sender.send(7).unwrap());
            assert_eq!(received.unwrap(), 7);
        }
        for room in [0, 1] {
            let (sender, receiver) = bounded(room);
            (0..room).for_each(|_| sender.send(0).unwrap());
            let sent = meanwhile(
                "send",
                move || channel::send(&sender, 7),
                |_| {
                    (0..room).for_each(|_| assert_eq!(receiver.recv(), Ok(0)));
                    assert_eq!(receiver.recv(), Ok(7));
                },
            );
            assert!(sent.is_ok());
        }
    });
}

// S58: a timeout too long for the clock is none
#[test]
fn timeouts_and_deadlines_end_a_wait() {
    virtually(|| {
        let (sender, receiver) = bounded(1);
        let start = now();
        assert!(matches!(channel::recv_timeout(&receiver, HOUR), Err(RecvError::TimedOut)));
        assert!(matches!(channel::recv_deadline(&receiver, start + 2 * HOUR), Err(RecvError::TimedOut)));
        assert!(matches!(channel::recv_timeout(&receiver, Duration::ZERO), Err(RecvError::TimedOut)));
        assert!(matches!(channel::recv_deadline(&receiver, start), Err(RecvError::TimedOut)));
        sender.send(1).unwrap();
        assert!(matches!(channel::send_timeout(&sender, 2, HOUR), Err(SendError::TimedOut(2))));
        assert!(matches!(channel::send_deadline(&sender, 2, start + 4 * HOUR), Err(SendError::TimedOut(2))));
        assert!(matches!(channel::send_timeout(&sender, 2, Duration::ZERO), Err(SendError::TimedOut(2))));
        assert_eq!(now() - start, 4 * HOUR);
        assert_eq!(channel::recv_timeout(&receiver, Duration::ZERO).unwrap(), 1);
        assert!(channel::send_deadline(&sender, 3, start).is_ok(), "there is room");
        assert_eq!(channel::recv_timeout(&receiver, Duration::MAX).unwrap(), 3);
    });
}

#[test]
fn a_timeout_ends_a_wait_by_the_real_clock_too() {
    guarded(|| {
        let (sender, receiver) = bounded(0);
        let short = Duration::from_millis(2);
        assert!(matches!(channel::recv_timeout(&receiver, short), Err(RecvError::TimedOut)));
        assert!(matches!(channel::send_timeout(&sender, 1, short), Err(SendError::TimedOut(1))));
    });
}

#[test]
fn a_deadline_of_the_place_ends_a_wait() {
    virtually(|| {
        let (sender, receiver) = bounded(1);
        assert!(move_on_after(HOUR, || Ok(channel::recv(&receiver)?)).unwrap().is_none());
        sender.send(1).unwrap();
        let late = fail_after(HOUR, || Ok(channel::send(&sender, 2)?));
        assert!(late.unwrap_err().is::<tassel::region::TimedOut>());
    });
    guarded(|| {
        let (_sender, receiver) = bounded::<u32>(1);
        assert!(move_on_after(Duration::from_millis(2), || Ok(channel::recv(&receiver)?)).unwrap().is_none());
    });
}

// S40: of those who wait, each message wakes one
#[test]
fn no_value_is_lost_or_doubled_between_many_who_wait_and_some_who_stop() {
    guarded(|| {
        const VALUES: u64 = 2000;
        for room in [0, 1, 7] {
            let (sender, receiver) = bounded(room);
            let (sum, left) = (AtomicU64::new(0), AtomicU64::new(0));
            let (sum, left) = (&sum, &left);
            scope(|s| {
                for _ in 0..4 {
                    let receiver = receiver.clone();
                    s.spawn(move || {
                        for value in channel::iter(&receiver) {
                            sum.fetch_add(value?, Ordering::Relaxed);
                        }
                        Ok(())
                    });
                }
                // These give up all the time.
                for _ in 0..2 {
                    let receiver = receiver.clone();
                    s.spawn(move || {
                        loop {
                            let got = move_on_after(Duration::from_micros(50), || Ok(channel::recv(&receiver)));
                            match got? {
                                Some(Ok(value)) => left.fetch_add(value, Ordering::Relaxed),
                                Some(Err(RecvError::Closed)) => return Ok(()),
                                Some(Err(_)) | None => 0,
                            };
                        }
                    });
                }
                for part in 0..2 {
                    let sender = sender.clone();
                    s.spawn(move || {
                        for value in (part..VALUES).step_by(2) {
                            let mut value = value;
                            while let Err(error) = channel::send_timeout(&sender, value, Duration::from_micros(50)) {
                                value = error.into_value();
                            }
                        }
                    });
                }
                drop(sender);
                Ok(())
            })
            .unwrap();
            let all = sum.load(Ordering::Relaxed) + left.load(Ordering::Relaxed);
            assert_eq!(all, VALUES * (VALUES - 1) / 2);
        }
    });
}

// S40: in O(n)
#[test]
fn a_thousand_who_wait_at_one_channel_are_all_stopped() {
    guarded(|| {
        const WAITERS: usize = 1000;
        let (sender, receiver) = unbounded::<u32>();
        let stopped = AtomicUsize::new(0);
        let done = scope(|s| {
            for _ in 0..WAITERS {
                let (receiver, stopped) = (&receiver, &stopped);
                s.spawn(move || {
                    let got = channel::recv(receiver);
                    stopped.fetch_add(usize::from(got.is_err()), Ordering::Relaxed);
                    got.map(drop).context("who waits")
                });
            }
            until_waiting(s, "recv", WAITERS);
            s.cancel();
            Ok(())
        });
        assert!(done.is_ok());
        assert_eq!(stopped.into_inner(), WAITERS);
        drop(sender);
    });
}

// D16: through `?` in each wrapper
#[test]
fn a_stop_is_one_in_whatever_the_error_was_wrapped() {
    #[derive(Debug, thiserror::Error)]
    enum Mine {
        #[error(transparent)]
        Receive(#[from] RecvError),
        #[error("sending")]
        Send(#[from] SendError<u32>),
        #[error("reading")]
        Io(#[from] io::Error),
    }
    fn receive(channel: &Receiver<u32>) -> Result<u32, Mine> {
        Ok(channel::recv(channel)?)
    }
    fn send(channel: &Sender<u32>) -> Result<(), Mine> {
        Ok(channel::send(channel, 7)?)
    }
    fn read(channel: &Receiver<u32>) -> Result<u32, Mine> {
        Ok(channel::recv(channel).map_err(io::Error::other)?)
    }
    guarded(|| {
        let (sender, receiver) = bounded(1);
        let (full, _kept) = bounded(0);
        let (receiver, full) = (&receiver, &full);
        let group = |job: &(dyn Fn() -> tassel::Result<()> + Sync)| {
            let token = CancelToken::new();
            let ended = ScopeOptions::new().name("s").under(&token).open(|_| {
                token.cancel_with("enough");
                job()
            });
            ended.unwrap_err()
        };
        let jobs: [&(dyn Fn() -> tassel::Result<()> + Sync); 8] = [
            &|| Ok(channel::recv(receiver).map(drop)?),
            &|| channel::recv(receiver).map(drop).context("receiving"),
            &|| Ok(channel::send(full, 7)?),
            &|| Ok(channel::send(full, 7).map_err(SendError::without_value)?),
            &|| channel::send(full, 7).context("sending"),
            &|| receive(receiver).map(drop).map_err(Into::into),
            &|| Ok(send(full)?),
            &|| Ok(read(receiver).map(drop)?),
        ];
        for job in jobs {
            let group = group(job);
            assert_eq!(group.len(), 1);
            assert!(group.primary().stop().is_some(), "{group:?}");
        }
        drop(sender);
    });
}

// D16, D24: whoever stops drops its ends, and that is no failure of who is to stop as well
#[test]
fn who_is_to_stop_is_told_so_and_not_that_the_other_end_is_gone() {
    guarded(|| {
        for _ in 0..50 {
            let (sender, receiver) = bounded::<u32>(1);
            let stopped = |token: &CancelToken| {
                token.cancel();
                drop(sender);
            };
            let got = meanwhile("recv", || channel::recv(&receiver), stopped);
            assert!(matches!(got, Err(RecvError::Cancelled(_))), "{got:?}");
            let (sender, receiver) = bounded(0);
            let stopped = |token: &CancelToken| {
                token.cancel();
                drop(receiver);
            };
            let sent = meanwhile("send", || channel::send(&sender, 7), stopped);
            assert!(matches!(sent, Err(SendError::Cancelled(7, _))), "{sent:?}");
        }
    });
}

#[test]
fn a_stop_is_told_also_to_who_is_marked_long_after_the_other_end_has_seen_it() {
    guarded(|| {
        let (sender, receiver) = bounded::<u32>(1);
        let looks = Barrier::new(2);
        let result = ScopeOptions::new().inline(false).open(|s| {
            let token = s.token();
            // Nodes to be marked before the receiver's, and after it: whichever way they are walked, it takes a while.
            let crowd = || (0..5_000).map(|_| token.child()).collect::<Vec<_>>();
            let before = crowd();
            s.job("receiver").spawn(|| {
                let _own_node = CancelToken::current();
                Ok(channel::recv(&receiver)?)
            });
            until_waiting(s, "recv", 1);
            let after = crowd();
            s.job("sender").spawn(|| {
                let sender = sender;
                looks.wait()?;
                while !is_cancelled() {
                    hint::spin_loop();
                }
                drop(sender);
                Ok(())
            });
            looks.wait()?;
            s.cancel();
            drop((before, after));
            Ok(())
        });
        assert!(result.is_ok(), "{result:?}");
    });
}

#[test]
fn a_select_that_finds_a_channel_closed_by_a_stop_tells_the_stop() {
    guarded(|| {
        let (sender, receiver) = bounded::<u32>(1);
        let select = || channel::select! { recv(receiver) -> got => channel::received(got) };
        sender.send(7).unwrap();
        assert_eq!(cancelled().enter(select).ok(), Some(7), "what was received is not lost");
        drop(sender);
        assert!(matches!(cancelled().enter(select), Err(RecvError::Cancelled(_))));
        assert!(matches!(select(), Err(RecvError::Closed)));
        let (sender, receiver) = bounded(1);
        let sends = || channel::select! { send(sender, 7) -> put => channel::sent(put) };
        assert!(cancelled().enter(sends).is_ok());
        drop(receiver);
        assert!(matches!(cancelled().enter(sends), Err(SendError::Cancelled(7, _))));
        assert!(matches!(sends(), Err(SendError::Closed(7))));
    });
}

// D16: what is no stop is a failure
#[test]
fn a_closed_channel_or_a_timeout_is_a_failure_with_a_text() {
    virtually(|| {
        let (sender, receiver) = bounded::<u32>(0);
        let group = named("s").open(|_| Ok(channel::recv_timeout(&receiver, SECOND)?)).unwrap_err();
        assert_eq!(told(&group), ["the body failed: receiving timed out"]);
        let group = named("s").open(|_| Ok(channel::send_timeout(&sender, 1, SECOND)?)).unwrap_err();
        assert_eq!(told(&group), ["the body failed: sending timed out"]);
        drop(receiver);
        let group = named("s").open(|_| Ok(channel::send(&sender, 1)?)).unwrap_err();
        assert_eq!(told(&group), ["the body failed: sending on a channel that has no receivers"]);
        let (_, receiver) = bounded::<u32>(0);
        let group = named("s").open(|_| Ok(channel::recv(&receiver)?)).unwrap_err();
        let text = "the body failed: receiving on a channel that is empty and has no senders";
        assert_eq!(told(&group), [text]);
    });
}

// S68: in virtual time
#[test]
fn a_receiver_waits_while_a_sender_sleeps_and_the_clock_goes_on() {
    virtually(|| {
        for (sender, receiver) in kinds() {
            let start = now();
            let received = scope(|s| {
                s.spawn(move || {
                    for n in 0..3 {
                        sleep(HOUR)?;
                        channel::send(&sender, n)?;
                    }
                    Ok(())
                });
                let at = |n: Result<u32, _>| Ok((n?, now() - start));
                channel::iter(&receiver).map(at).collect::<tassel::Result<Vec<_>>>()
            });
            assert_eq!(received.unwrap(), [(0, HOUR), (1, 2 * HOUR), (2, 3 * HOUR)]);
        }
    });
}

#[test]
fn a_sender_waits_while_a_receiver_sleeps() {
    virtually(|| {
        for room in [0, 1] {
            let (sender, receiver) = bounded(room);
            let start = now();
            let sent = scope(|s| {
                let times = s.spawn(move || {
                    let send = |n| channel::send(&sender, n).map(|()| now() - start);
                    Ok((0..3_u32).map(send).collect::<Result<Vec<_>, _>>()?)
                });
                for n in 0..3 {
                    sleep(HOUR)?;
                    assert_eq!(channel::recv(&receiver)?, n);
                }
                Ok(times.join()?)
            });
            let hours = |first: u32| [first, first + 1, first + 2].map(|hours| hours * HOUR);
            assert_eq!(sent.unwrap(), hours(u32::from(room == 0)));
        }
    });
}

/// Two who produce at their own pace, a stage with two workers, and what is written at the end.
fn pipeline(room: usize, plain: bool) -> String {
    let out = Mutex::new(String::new());
    let say = |text: String| writeln!(out.lock().unwrap(), "{text}").unwrap();
    let say = &say;
    let done = virtual_time(|| {
        let start = now();
        scope(|s| {
            let ((numbers, to_square), (squares, to_write)) = (bounded(room), bounded(room));
            for (name, pace) in [("a", 2), ("b", 3)] {
                let numbers = numbers.clone();
                s.job(name).spawn(move || {
                    for n in 0..6 {
                        sleep(pace * SECOND)?;
                        say(format!("{name} has {n}"));
                        channel::send(&numbers, (name, n))?;
                    }
                    Ok(())
                });
            }
            for name in ["c", "d"] {
                let (to_square, squares) = (to_square.clone(), squares.clone());
                s.job(name).spawn(move || {
                    for number in channel::iter(&to_square) {
                        let (from, n) = number?;
                        say(format!("{name} got {n} from {from} after {:?}", now() - start));
                        sleep(4 * SECOND)?;
                        if plain { squares.try_send(n * n)? } else { channel::send(&squares, n * n)? }
                    }
                    Ok(())
                });
            }
            drop((numbers, squares));
            for square in channel::iter(&to_write) {
                say(format!("{} after {:?}", square?, now() - start));
            }
            Ok(())
        })
    });
    say(format!("{done:?}"));
    out.into_inner().unwrap()
}

#[test]
fn a_pipeline_in_virtual_time_goes_the_same_way_each_time() {
    guarded(|| {
        for (room, plain) in [(0, false), (1, false), (8, false), (8, true)] {
            let first = pipeline(room, plain);
            assert!(first.ends_with("Ok(())\n"), "{first}");
            assert_eq!(first.lines().count(), 6 * 2 * 3 + 1, "{first}");
            for _ in 0..50 {
                assert_eq!(pipeline(room, plain), first);
            }
        }
    });
}

#[test]
fn who_yields_in_virtual_time_lets_those_go_first_for_whom_there_is_a_value() {
    virtually(|| {
        let (sender, receiver) = unbounded();
        let got = AtomicU64::new(0);
        let got = &got;
        let done = scope(|s| {
            s.spawn(move || {
                for n in channel::iter(&receiver) {
                    got.store(n?, Ordering::Relaxed);
                }
                Ok(())
            });
            for n in 1..4 {
                sender.send(n)?;
                yield_now()?;
                assert_eq!(got.load(Ordering::Relaxed), n);
            }
            drop(sender);
            Ok(())
        });
        assert!(done.is_ok());
    });
}

#[test]
fn a_receiver_that_nobody_can_reach_is_a_deadlock_in_virtual_time() {
    guarded(|| {
        let ended = try_virtual_time(|| {
            let (_sender, receiver) = unbounded::<u32>();
            assert!(matches!(channel::recv(&receiver), Err(RecvError::Cancelled(_))));
        });
        assert_eq!(ended.unwrap_err().to_string(), "deadlock: 1 thread waits, and nothing can wake it");
    });
}

#[test]
fn a_thread_that_is_not_of_the_virtual_run_can_bring_a_value() {
    virtually(|| {
        for (sender, receiver) in kinds() {
            let thread = thread::spawn(move || sender.send(7));
            assert_eq!(channel::recv(&receiver).unwrap(), 7);
            assert!(thread.join().unwrap().is_ok());
        }
    });
}

/// A plain call blocks with the baton in its hand; the kernel shows that.
#[cfg(target_os = "linux")]
#[test]
fn a_plain_call_that_blocks_in_a_virtual_run_is_met_by_one_of_ours() {
    virtually(|| {
        for room in [0, 1] {
            let (sender, receiver) = bounded(room);
            let sum = scope(|s| {
                s.spawn(move || Ok((0..5_u32).try_for_each(|n| sender.send(n))?));
                let mut sum = 0;
                for n in channel::iter(&receiver) {
                    sum += n?;
                }
                Ok(sum)
            });
            assert_eq!(sum.unwrap(), 10);
        }
    });
}

#[test]
fn a_bound_thread_that_blocks_in_a_plain_call_is_met_in_a_virtual_run() {
    virtually(|| {
        for room in [0, 1] {
            let (sender, receiver) = bounded(room);
            let send = move || (0..5_u32).try_for_each(|n| sender.send(n));
            let thread = thread::spawn(CancelToken::current().bind(send));
            let sum: u32 = channel::iter(&receiver).map(Result::unwrap).sum();
            assert_eq!(sum, 10);
            assert!(thread.join().unwrap().is_ok());
        }
    });
}

// S8: a wait is announced
#[test]
fn a_wait_at_a_channel_gives_up_its_place_in_the_pool() {
    guarded(|| {
        let pool = Pool::builder().parallelism(1).build().unwrap();
        let (sender, receiver) = bounded::<u32>(0);
        let sum = ScopeOptions::new().pool(&pool).inline(false).open(|s| {
            let sum = s.spawn(|| Ok(channel::recv(&receiver)? + channel::recv(&receiver)?));
            while pool.stats().blocked < 1 {
                thread::yield_now();
            }
            s.spawn(|| Ok([1, 2].into_iter().try_for_each(|n| channel::send(&sender, n))?));
            Ok(sum.join()?)
        });
        assert_eq!(sum.unwrap(), 3);
    });
}

#[test]
fn a_picture_shows_who_waits_at_a_channel_and_where() {
    virtually(|| {
        let (sender, receiver) = bounded::<u32>(0);
        let (full, _kept) = bounded::<u32>(0);
        let seen = scope(|s| {
            let (receiver, full) = (&receiver, &full);
            s.job("in").spawn(move || Ok(channel::recv(receiver).map(drop)?));
            s.job("out").spawn(move || Ok(channel::send(full, 1)?));
            sleep(SECOND)?;
            let picture = snapshot::of(s);
            s.cancel();
            let shown = |name: &str| {
                let entry = picture.entries.iter().find(|entry| entry.name == name).unwrap();
                let place = entry.waits_at.unwrap();
                (entry.state.to_string(), place.file().to_owned(), place.line())
            };
            Ok([shown("in"), shown("out")])
        });
        let here = |line| (file!().to_owned(), line);
        let [got, sent] = seen.unwrap();
        let line = sent.2;
        assert_eq!((got.0.as_str(), (got.1, got.2)), ("waiting in recv", here(line - 1)));
        assert_eq!((sent.0.as_str(), (sent.1, sent.2)), ("waiting in send", here(line)));
        drop(sender);
    });
}

#[test]
fn a_select_of_the_users_own_sees_the_cancel_by_the_token() {
    guarded(|| {
        let (sender, inbox) = unbounded();
        let at_work = Barrier::new(2);
        let sum = AtomicU64::new(0);
        let done = scope(|s| {
            s.spawn(|| {
                let stop = CancelToken::current().receiver();
                loop {
                    channel::select! {
                        recv(inbox) -> n => { sum.fetch_add(channel::received(n)?, Ordering::Relaxed); }
                        recv(stop) -> _ => return Ok(checkpoint()?),
                    }
                    at_work.wait()?;
                }
            });
            sender.send(7)?;
            at_work.wait()?;
            s.cancel();
            Ok(())
        });
        assert!(done.is_ok());
        assert_eq!(sum.into_inner(), 7);
    });
}

#[test]
fn a_call_on_a_channel_of_ends_that_carry_each_other_leaves_nothing() {
    guarded(|| {
        // A value whose drop drops the last receiver of its own channel, and one that sends as it is dropped.
        struct Last(Option<Receiver<Last>>, Sender<u32>);
        impl Drop for Last {
            fn drop(&mut self) {
                let _ = channel::send(&self.1, 7);
                drop(self.0.take());
            }
        }
        let (log, told) = unbounded();
        let (sender, receiver) = bounded(1);
        channel::send(&sender, Last(None, log.clone())).unwrap();
        let last = Last(Some(receiver), log);
        let error = meanwhile("send", || channel::send(&sender, last), CancelToken::cancel).unwrap_err();
        assert!(matches!(error.without_value(), SendError::Cancelled((), _)));
        assert!(matches!(channel::send(&sender, Last(None, unbounded().0)), Err(SendError::Closed(_))));
        drop(sender);
        assert_eq!(told.iter().collect::<Vec<_>>(), [7, 7]);
    });
}
