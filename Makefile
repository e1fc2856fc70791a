# What a newcomer and an administrator need: demo, test, static, install. `make help` lists it.

CARGO ?= cargo
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
FUZZ_SECONDS ?= 60

.PHONY: help build release demo test test-deps lint bench fuzz static install clean

help:
	@echo 'make demo       a few calls through both daemons on loopback, without root (under 30 s after the build)'
	@echo 'make test       every test; as root it first installs what it needs from Debian'
	@echo 'make lint       format, clippy with warnings denied, layers, rules'
	@echo 'make bench      call set-up beside rtpengine, listing, memory, what a packet costs; ratios from one run'
	@echo 'make fuzz       every parser for FUZZ_SECONDS ($(FUZZ_SECONDS)) each'
	@echo 'make static     static binaries'
	@echo 'make install    into DESTDIR and PREFIX ($(PREFIX))'

build:
	$(CARGO) build --locked

release:
	$(CARGO) build --locked --release

demo: release
	$(CARGO) run --locked --release --quiet --example demo -- target/release

test:
	tests/run.sh

test-deps:
	tests/deps.sh

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	tests/lint/layers.sh
	tests/lint/rules.sh

bench: release
	$(CARGO) bench --locked --bench relay -- target/release; status=$$?; python3 tests/netns/cost.py && exit $$status

fuzz:
	fuzz/run.sh $(FUZZ_SECONDS)

# musl where its target and compiler are installed, else glibc linked statically.
static:
	scripts/static.sh

install: release
	install -d '$(DESTDIR)$(PREFIX)/sbin' '$(DESTDIR)$(SYSCONFDIR)/mediaproxy/tls' '$(DESTDIR)$(SYSCONFDIR)/mediaproxy/radius'
	install -m 755 target/release/media-dispatcher target/release/media-relay target/release/media-admin '$(DESTDIR)$(PREFIX)/sbin/'
	test -e '$(DESTDIR)$(SYSCONFDIR)/mediaproxy/config.ini' || \
		install -m 644 conf/config.ini '$(DESTDIR)$(SYSCONFDIR)/mediaproxy/config.ini'
	test -e '$(DESTDIR)$(SYSCONFDIR)/mediaproxy/radius/dictionary' || \
		install -m 644 conf/radius/dictionary '$(DESTDIR)$(SYSCONFDIR)/mediaproxy/radius/dictionary'

clean:
	$(CARGO) clean
	rm -rf fuzz/target
