"""Packages that the tests need beside the project's own: the same with a higher version, and what others ship."""
import os
import re
import shutil
import tempfile

from machine import run

MAINTAINER = 'Nobody <nobody@test.invalid>'
CONTROL = 'Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: ' + MAINTAINER + '\nDescription: made by a test\n'


def renamed(package, version, folder):
    """The same package with another version, as a later build of it would be. Its files are new on disk, their contents are the same."""
    work = tempfile.mkdtemp(dir=folder)
    run('dpkg-deb', '-R', package, work)
    path = os.path.join(work, 'DEBIAN/control')
    text = open(path).read()
    old = re.search(r'^Version: (.*)$', text, re.M).group(1)
    with open(path, 'w') as file:
        file.write(text.replace(old, version))
    name = os.path.basename(package).replace(old.split(':')[-1], version.split(':')[-1])
    return built(work, os.path.join(folder, name))


def built(work, package):
    run('dpkg-deb', '-Znone', '--root-owner-group', '-b', work, package)
    shutil.rmtree(work)
    return package


def made(folder, name, version, files, scripts=None, conffiles=(), depends='', architecture='all'):
    """A package from nothing. Files are path: (text, mode)."""
    work = tempfile.mkdtemp(dir=folder)
    os.chmod(work, 0o755)
    os.mkdir(work + '/DEBIAN')
    for path, (text, mode) in files.items():
        os.makedirs(os.path.dirname(work + path), exist_ok=True)
        with open(work + path, 'w') as file:
            file.write(text)
        os.chmod(work + path, mode)
    with open(work + '/DEBIAN/control', 'w') as file:
        file.write(CONTROL % (name, version, architecture) + ('Depends: %s\n' % depends if depends else ''))
    for script, text in (scripts or {}).items():
        with open(work + '/DEBIAN/' + script, 'w') as file:
            file.write(text)
        os.chmod(work + '/DEBIAN/' + script, 0o755)
    if conffiles:
        with open(work + '/DEBIAN/conffiles', 'w') as file:
            file.write(''.join(path + '\n' for path in conffiles))
    return built(work, os.path.join(folder, '%s_%s_all.deb' % (name, version)))


def kamailio(folder):
    """As far as the dispatcher is concerned: a program, and a user with its group."""
    add = '#!/bin/sh\nset -e\ngetent group kamailio >/dev/null || groupadd --system kamailio\n' \
          'getent passwd kamailio >/dev/null || useradd --system --gid kamailio kamailio\n'
    return made(folder, 'kamailio', '5.6.0', {'/usr/sbin/kamailio': ('#!/bin/sh\n', 0o755)}, {'postinst': add})


def mediaproxy(folder, config):
    """AG Projects' packages by what is theirs on disk: conffiles and units of the same names, programs elsewhere. Two that have no
    successor: symbols for the very version, and pages for a web server."""
    unit = '[Service]\nType=simple\nExecStart=/usr/bin/%s\n[Install]\nWantedBy=multi-user.target\n'
    machine = run('dpkg', '--print-architecture').strip()
    packages = [
        made(folder, 'mediaproxy-common', '4.0.5', {
            '/etc/mediaproxy/config.ini': (config, 0o600),
            '/etc/mediaproxy/radius/dictionary': ('# theirs\n', 0o644),
            '/etc/mediaproxy/tls/.placeholder': ('', 0o644),
            '/usr/share/doc/mediaproxy-common/tls/README': ('theirs\n', 0o644),
            '/usr/lib/python3/dist-packages/mediaproxy/relay.py': ('', 0o644)},
            conffiles=('/etc/mediaproxy/config.ini', '/etc/mediaproxy/radius/dictionary', '/etc/mediaproxy/tls/.placeholder'), architecture=machine),
        made(folder, 'mediaproxy-common-dbg', '4.0.5', {'/usr/lib/debug/theirs': ('', 0o644)}, depends='mediaproxy-common (= 4.0.5)', architecture=machine),
        made(folder, 'mediaproxy-web-sessions', '4.0.5', {
            '/etc/mediaproxy/web/media_sessions.conf': ('theirs\n', 0o644),
            '/usr/share/mediaproxy/web/media_sessions.phtml': ('', 0o644)}, conffiles=('/etc/mediaproxy/web/media_sessions.conf',))]
    for part in ('relay', 'dispatcher'):
        packages.append(made(folder, 'mediaproxy-' + part, '4.0.5', {
            '/usr/bin/media-' + part: ('#!/bin/sh\ntrap "exit 0" HUP\nwhile :; do sleep 0.2; done\n', 0o755),
            '/usr/share/man/man1/media-%s.1' % part: ('', 0o644),
            '/lib/systemd/system/mediaproxy-%s.service' % part: (unit % ('media-' + part), 0o644),
            '/etc/init.d/mediaproxy-' + part: ('#!/bin/sh\n# theirs\n', 0o755)},
            conffiles=('/etc/init.d/mediaproxy-' + part,), depends='mediaproxy-common (>= 4.0.5)'))
    return packages
