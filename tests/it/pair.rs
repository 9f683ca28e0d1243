//! Two pieces of code at once: `join`.

use crate::{guarded, virtually};
use std::time::Duration;
use tassel::{CancelToken, Leaf, join, region::fail_after, sleep};

const HOUR: Duration = Duration::from_secs(3600);

fn fails(text: &'static str) -> tassel::Result<()> {
    anyhow::bail!(text)
}

#[test]
fn both_values_come_back_and_both_may_borrow() {
    guarded(|| {
        let (mut a, mut b) = (vec![1], vec![2]);
        let values = join(
            || {
                a.push(3);
                Ok(a.len())
            },
            || b.push(4),
        );
        assert_eq!(values.unwrap(), (2, ()));
        assert_eq!((a, b), (vec![1, 3], vec![2, 4]));
    });
}

#[test]
fn whoever_fails_stops_the_other_and_is_told_once() {
    virtually(|| {
        let group = join(|| Ok(sleep(HOUR)?), || fails("no disk")).unwrap_err();
        assert_eq!((group.len(), group.primary().to_string().contains("failed")), (1, true));
        let group = join(|| fails("no disk"), || Ok(sleep(HOUR)?)).unwrap_err();
        assert_eq!(group.len(), 1);
    });
}

#[test]
fn the_errors_and_panics_of_both_come_back() {
    virtually(|| {
        let late = || {
            let slept = sleep(HOUR);
            assert!(slept.is_err());
            fails("no net")
        };
        let soon = || {
            sleep(Duration::from_secs(1))?; // the other has started
            fails("no disk")
        };
        assert_eq!(join(soon, late).unwrap_err().len(), 2);
        assert_eq!(join(late, soon).unwrap_err().len(), 2);
        let group = join(late, || -> tassel::Result<()> { panic!("on purpose") }).unwrap_err();
        assert_eq!(group.len(), 2);
        assert!(group.leaves().any(Leaf::is_panic));
    });
}

#[test]
fn what_has_not_started_when_the_other_fails_never_does() {
    virtually(|| {
        let group = join(|| fails("no disk"), || panic!("it has started")).unwrap_err();
        assert_eq!(group.len(), 1);
    });
}

#[test]
fn a_stop_from_outside_reaches_both() {
    virtually(|| {
        let stopped = fail_after(HOUR, || Ok(join(|| Ok(sleep(Duration::MAX)?), || Ok(sleep(Duration::MAX)?))?));
        assert!(stopped.is_err());
        let token = CancelToken::new();
        token.cancel();
        let both = token.enter(|| join(|| Ok(sleep(HOUR)?), || Ok(sleep(HOUR)?)));
        assert!(both.unwrap_err().primary().stop().is_some());
    });
}

#[test]
fn a_recursion_of_joins_gives_what_the_plain_one_does() {
    fn fib(n: u64) -> tassel::Result<u64> {
        if n < 2 {
            return Ok(n);
        }
        let (a, b) = join(|| fib(n - 1), || fib(n - 2))?;
        Ok(a + b)
    }
    guarded(|| assert_eq!(fib(12).unwrap(), 144));
}
