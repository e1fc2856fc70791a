# What a newcomer and an administrator need: demo, test, static, install. `make help` lists it.

CARGO ?= cargo
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
# Where `make install` puts things; an empty one leaves them out.
DOCDIR ?= $(PREFIX)/share/doc/mediaproxy
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
INITDIR ?=
CONFIG ?= yes
# What was built.
BINARIES ?= target/release
# Units and init scripts name what was installed, and a configuration that is not in /etc.
PLACES = s|/usr/sbin/media-|$(PREFIX)/sbin/media-|;s|^CONFIG=.*|CONFIG=$(SYSCONFDIR)/mediaproxy|$(if $(filter-out /etc,$(SYSCONFDIR)),;s|^ExecStart=.*|& --config-dir $(SYSCONFDIR)/mediaproxy|)
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600

.PHONY: help build release demo test soak test-deps test-packages test-packages-build lint bench fuzz asan mutants static install install-files deb dist clean

help:
	@echo 'make demo       a few calls through both daemons on loopback, without root (under 30 s after the build)'
	@echo 'make test       every test; as root it first installs what it needs from Debian'
	@echo 'make soak       every attack on both daemons at once while calls go on, for SOAK_SECONDS ($(SOAK_SECONDS))'
	@echo 'make lint       format, clippy with warnings denied, layers, circles of imports, rules'
	@echo 'make bench      call set-up beside rtpengine, listing, memory, what a packet costs; ratios from one run'
	@echo 'make fuzz       every target in fuzz/ for FUZZ_SECONDS ($(FUZZ_SECONDS)) each, about half an hour; figures at the end'
	@echo 'make asan       the unit tests under AddressSanitizer'
	@echo 'make mutants    changes a sample of lines and sees whether the unit tests notice; an hour (cargo install cargo-mutants)'
	@echo 'make static     static binaries'
	@echo 'make install    into DESTDIR and PREFIX ($(PREFIX)); INITDIR=/etc/init.d adds init scripts'
	@echo 'make deb        Debian packages, in target/deb'
	@echo 'make dist       the sources as committed, in target'
	@echo 'make test-packages  as root: packages built, installed, upgraded and purged in a fresh Debian and Ubuntu of its own'
	@echo 'make test-packages-build  as root: the packages compiled on Debian 13 and Ubuntu 24.04, and used there'

build:
	$(CARGO) build --locked

release:
	$(CARGO) build --locked --release

demo:
	@echo 'compiling, which takes some minutes where it is the first time ...'
	$(CARGO) build --locked --release --bins --example demo
	@target/release/examples/demo target/release

test:
	tests/run.sh

# Two minutes of it are in `make test`.
soak:
	SOAK_SECONDS=$(SOAK_SECONDS) $(CARGO) test --locked --test alone attacks::soak -- --nocapture

test-deps:
	tests/deps.sh

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	tests/lint/layers.sh
	tests/lint/circles.py
	tests/lint/rules.sh

bench: release
	$(CARGO) bench --locked --bench relay -- target/release; status=$$?; python3 tests/netns/cost.py && exit $$status

fuzz:
	fuzz/run.sh $(FUZZ_SECONDS)

# What it needs is in every toolchain for Linux, but stable takes the option only so. Leaks are not looked for: statics and
# children. One test looks at glibc's own allocator.
asan:
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0 $(CARGO) test --locked --lib \
		--target "$$(rustc -vV | sed -n 's/^host: //p')" --target-dir target/asan \
		-- --skip large_buffers_are_mapped_whatever_was_freed_before

mutants:
	tests/mutants.sh

# musl where its target and compiler are installed, else glibc linked statically.
static:
	scripts/static.sh

install: release install-files

# What was built into place; without a daemon restarted, a user made or a configuration overwritten.
install-files:
	install -d '$(DESTDIR)$(PREFIX)/sbin' '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/share/mediaproxy' '$(DESTDIR)$(DOCDIR)'
	install -m 755 $(BINARIES)/media-dispatcher $(BINARIES)/media-relay '$(DESTDIR)$(PREFIX)/sbin/'
	install -m 755 $(BINARIES)/media-admin '$(DESTDIR)$(PREFIX)/bin/'
	install -m 755 tls/make-certs.sh '$(DESTDIR)$(PREFIX)/sbin/mediaproxy-make-certs'
	install -m 644 conf/config.ini '$(DESTDIR)$(PREFIX)/share/mediaproxy/'
	install -m 644 README.md ARCHITECTURE.md $(wildcard docs/*.md) '$(DESTDIR)$(DOCDIR)/'
	install -m 644 tls/README.md '$(DESTDIR)$(DOCDIR)/certificates.md'
	set -e; for page in $(wildcard man/*.[1-8]); do \
		install -D -m 644 -t '$(DESTDIR)$(PREFIX)/share/man/man'$${page##*.} $$page; done
	set -e; for folder in $(wildcard conf/grafana conf/prometheus); do \
		install -D -m 644 -t '$(DESTDIR)$(PREFIX)/share/mediaproxy/'$${folder##*/} $$folder/*; done
ifneq (,$(UNITDIR))
	install -d '$(DESTDIR)$(UNITDIR)'
	set -e; for unit in conf/systemd/*.service; do \
		sed '$(PLACES)' $$unit >'$(DESTDIR)$(UNITDIR)/'$${unit##*/}; done
endif
ifneq (,$(SYSUSERSDIR))
	install -D -m 644 -t '$(DESTDIR)$(SYSUSERSDIR)' conf/sysusers.d/mediaproxy.conf
endif
ifneq (,$(BASHDIR))
	install -D -m 644 -t '$(DESTDIR)$(BASHDIR)' conf/completion/bash/*
endif
ifneq (,$(ZSHDIR))
	install -D -m 644 -t '$(DESTDIR)$(ZSHDIR)' conf/completion/zsh/*
endif
ifneq (,$(INITDIR))
	install -d '$(DESTDIR)$(INITDIR)'
	set -e; for script in conf/init.d/*; do \
		sed '$(PLACES)' $$script >'$(DESTDIR)$(INITDIR)/'$${script##*/}; chmod 755 '$(DESTDIR)$(INITDIR)/'$${script##*/}; done
endif
ifneq (,$(CONFIG))
	install -d '$(DESTDIR)$(SYSCONFDIR)/mediaproxy/tls' '$(DESTDIR)$(SYSCONFDIR)/mediaproxy/radius'
	@# Passwords in it are for root and the daemons alone.
	set -e; config='$(DESTDIR)$(SYSCONFDIR)/mediaproxy/config.ini'; test -e "$$config" || { \
		install -m 640 conf/config.ini "$$config"; \
		chgrp mediaproxy "$$config" 2>/dev/null || \
			echo "only root can read $$config; once there is the user mediaproxy: chgrp mediaproxy $$config"; }
	test -e '$(DESTDIR)$(SYSCONFDIR)/mediaproxy/radius/dictionary' || \
		install -m 644 conf/radius/dictionary '$(DESTDIR)$(SYSCONFDIR)/mediaproxy/radius/dictionary'
endif

# Debian packages, in target/deb.
deb:
	scripts/deb.sh

# The sources as they are committed, the same archive whenever it is made: target/mediaproxy-VERSION.tar.gz.
dist:
	scripts/dist.sh

test-packages:
	tests/packages/run.sh

# Compiled on the other releases, too: several minutes for each where it is the first time.
test-packages-build:
	tests/packages/run.sh --build

clean:
	$(CARGO) clean
	rm -rf fuzz/target
