# Hallcast: everything one does with it. `make test` is all that CI runs (.ci/run only calls it).
#
# What these targets keep, and rely on where it is there:
#   ~/.cargo           cargo's registry and the sources of the crates
#   ~/.cache/hallcast  (or $HALLCAST_CACHE) rig/: the guest's kernel; tools/: cargo-deny, cargo-deb;
#                      films/: the film of tests/film.rs; qemu/: Debian's packages of make qemu-arm64;
#                      target/: where CI is set, what cargo built, in the place of ./target
#   ./target           what cargo built; packages in target/debian, the stages' logs in target/stages
# None of them is needed: a fresh clone on a fresh Debian 12 or 13 with make and cargo makes them.

.PHONY: deb help demo test soak packages rig qemu-arm64 lint clean

help:
	@echo 'make demo      records the test pattern and serves it; DEMO_SECONDS=N ends by itself,'
	@echo '               DEMO_VIDEO=/dev/videoX and DEMO_AUDIO=hw:X,Y use real devices'
	@echo 'make deb       packages of the box and the receiver for amd64, arm64 and armhf, in target/debian;'
	@echo '               DEB="arm64 box" builds that of the box for arm64 alone, DEB="arm64 box lean"'
	@echo '               also its program without the software encoders; the sizes are printed'
	@echo 'make test      system packages, builds, lints, and every test'
	@echo 'make soak      the long forms of the tests'
	@echo 'make lint      format, clippy, licences, documentation'
	@echo 'make packages  the system packages, by apt'
	@echo 'make rig       the kernel of the device tests (tests/rig/rig)'
	@echo 'make qemu-arm64  the package of the box for arm64 records in a machine that qemu plays; no part of CI'
	@echo 'make clean     removes ./target'

# DEMO_* reach the script through the environment, where make puts what its command line sets.
demo:
	@command -v cargo >/dev/null || { echo 'There is no cargo here: install Rust (https://rustup.rs).' >&2; exit 1; }
	@tests/support/packages build
	@cargo build --locked --release
	@tests/support/demo

DEB = amd64 arm64 armhf
deb:
	@tests/support/packages build deb
	@tests/support/deb $(DEB)

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

qemu-arm64:
	@tests/support/packages build deb
	@tests/support/deb arm64 box
	@tests/rig/qemu-arm64

clean:
	cargo clean
