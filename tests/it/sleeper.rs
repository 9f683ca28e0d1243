//! The picture that the sleeper example shows at each step.

use crate::guarded;
use std::sync::Mutex;
use tassel::{Scope, scope, sleep, snapshot, testing::virtual_time};

#[test]
fn a_job_is_in_the_picture_from_its_spawn_to_its_end() {
    guarded(|| {
        for run in 0..200 {
            let pictures = Mutex::new(Vec::new());
            let look = |s: &Scope<'_, '_>| {
                let names = snapshot::of(s).jobs.into_iter().map(|job| job.name).collect::<Vec<_>>().join(" ");
                pictures.lock().unwrap().push(names);
            };
            let look = &look;
            virtual_time(|| {
                scope(|s| {
                    for (name, seconds) in [("A", 5), ("B", 3), ("C", 1)] {
                        s.job(name).spawn(move || {
                            look(s);
                            Ok(sleep(std::time::Duration::from_secs(seconds))?)
                        });
                    }
                })
                .unwrap();
            });
            assert_eq!(pictures.into_inner().unwrap(), ["A B C", "A B C", "A B C"], "run {run}");
        }
    });
}
