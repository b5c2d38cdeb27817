# Hallcast: everything one does with it. `make test` is all that CI runs (.ci/run only calls it).
#
# What these targets keep, and rely on where it is there:
#   ~/.cargo           cargo's registry and the sources of the crates
#   ~/.cache/hallcast  (or $HALLCAST_CACHE) rig/: the guest's kernel; tools/: cargo-deny;
#                      films/: the film of tests/film.rs
#   ./target           what cargo built; the stages' logs in target/stages
# None of them is needed: a fresh clone on a fresh Debian 12 or 13 with make and cargo makes them.

.PHONY: help demo test soak packages rig lint clean

help:
	@echo 'make demo      records the test pattern and serves it; DEMO_SECONDS=N ends by itself,'
	@echo '               DEMO_VIDEO=/dev/videoX and DEMO_AUDIO=hw:X,Y use real devices'
	@echo 'make test      system packages, builds, lints, and every test'
	@echo 'make soak      the long forms of the tests'
	@echo 'make lint      format, clippy, licences, documentation'
	@echo 'make packages  the system packages, by apt'
	@echo 'make rig       the kernel of the device tests (tests/rig/rig)'
	@echo 'make clean     removes ./target'

# DEMO_* reach the script through the environment, where make puts what its command line sets.
demo:
	@command -v cargo >/dev/null || { echo 'There is no cargo here: install Rust (https://rustup.rs).' >&2; exit 1; }
	@tests/support/packages build
	@cargo build --locked --release
	@tests/support/demo

test:
	@tests/support/stages test

soak:
	@tests/support/stages soak

lint:
	@tests/support/stages lint

packages:
	@tests/support/packages build test rig

rig:
	@tests/rig/rig build

clean:
	cargo clean
