"""Packages that the tests need beside the project's own: the same with a higher version, and what others ship."""
import os
import re
import shutil
import tempfile

from machine import run

MAINTAINER = 'Nobody <nobody@test.invalid>'
CONTROL = 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: ' + MAINTAINER + '\nDescription: made by a test\n'


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


def made(folder, name, version, files, scripts=None, conffiles=()):
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
        file.write(CONTROL % (name, version))
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
    """AG Projects' three packages in their last version, by what is theirs on disk: conffiles and units of the same names."""
    unit = '[Service]\nType=simple\nExecStart=/usr/bin/%s\n[Install]\nWantedBy=multi-user.target\n'
    packages = [made(folder, 'mediaproxy-common', '4.0.5', {
        '/etc/mediaproxy/config.ini': (config, 0o600),
        '/etc/mediaproxy/radius/dictionary': ('# theirs\n', 0o644),
        '/etc/mediaproxy/tls/.placeholder': ('', 0o644)},
        conffiles=('/etc/mediaproxy/config.ini', '/etc/mediaproxy/radius/dictionary', '/etc/mediaproxy/tls/.placeholder'))]
    for part in ('relay', 'dispatcher'):
        packages.append(made(folder, 'mediaproxy-' + part, '4.0.5', {
            '/usr/bin/media-' + part: ('#!/bin/sh\nwhile :; do sleep 0.2; done\n', 0o755),
            '/lib/systemd/system/mediaproxy-%s.service' % part: (unit % ('media-' + part), 0o644),
            '/etc/init.d/mediaproxy-' + part: ('#!/bin/sh\n# theirs\n', 0o755)},
            conffiles=('/etc/init.d/mediaproxy-' + part,)))
    return packages
