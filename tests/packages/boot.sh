#!/bin/sh
# The first process of a machine: makes FOLDER the root of these new namespaces, as a boot loader and an initrd do, and
# becomes what is to run as process 1.
#   boot.sh FOLDER systemd     the real one
#   boot.sh FOLDER plain       no service manager at all; a shell that does what process 1 must: wait for orphans
set -eu
root=$1 kind=$2
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
[ "$kind" != systemd ] || mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
	touch "$root/dev/$device"
	mount --bind /dev/$device "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
touch "$root/dev/console"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
cd "$root"
mkdir -p .host
pivot_root . .host
umount -l /.host
hostname machine
# From now on a path in here is one of the machine.
: >/run/this-is-the-machine
if [ "$kind" = systemd ]; then
	exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
fi
# shellcheck disable=SC2016 # for the shell that runs it
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c 'while :; do sleep 0.2 & wait; done'
