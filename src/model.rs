//! Models of the protocols, run by loom: `RUSTFLAGS="--cfg tassel_loom" cargo test --release --lib model`.
