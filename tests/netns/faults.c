/* Makes a relay's requests to netfilter fail: preloaded into it, told by a file what and how (faults.py).
 *
 * A request that is to be refused never reaches the kernel: its answer is made here. One whose answer is to be lost is
 * done, and what the kernel said is thrown away. Only sockets of NETLINK_NETFILTER are looked at.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* As in faults.py. */
struct control {
	uint32_t kind;		/* the type of the messages that are to fail; 0: none */
	uint32_t dump;		/* 1: only dumps, 0: only what is none */
	uint32_t error;		/* the errno; 0: the answer is lost */
	uint32_t times;		/* how many requests are still to fail */
	uint32_t hits;		/* how many did */
	uint32_t unprotected;	/* 1: as a kernel that knows no flags of tables */
	uint32_t delay;		/* before each request, microseconds */
	uint32_t events;	/* how many datagrams of events are still to be lost */
	uint32_t missed;	/* how many were */
};

enum { BATCH_BEGIN = 0x10, NEWTABLE = 0xa00, NAME = 1, FLAGS = 2 };

static struct control *control;
static ssize_t (*real_sendto)(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
static ssize_t (*real_recv)(int, void *, size_t, int);

/* Answers of ours that wait to be read. One thread has all these sockets. */
static struct { struct nlmsghdr head; int error; struct nlmsghdr of; } answers[128];
static size_t waiting;
static int waiting_at = -1;

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("NETLINK_FAULTS");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

	real_sendto = dlsym(RTLD_NEXT, "sendto");
	real_recv = dlsym(RTLD_NEXT, "recv");
	if (fd < 0)
		return;
	control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (control == MAP_FAILED)
		abort();
	close(fd);
}

static int option(int fd, int name)
{
	int value = -1;
	socklen_t size = sizeof value;

	return getsockopt(fd, SOL_SOCKET, name, &value, &size) ? -1 : value;
}

static int is_netfilter(int fd)
{
	return control && option(fd, SO_DOMAIN) == AF_NETLINK && option(fd, SO_PROTOCOL) == NETLINK_NETFILTER;
}

static void answer(int fd, uint32_t sequence, int error)
{
	if (waiting == sizeof answers / sizeof *answers)
		abort();
	memset(&answers[waiting], 0, sizeof *answers);
	answers[waiting].head.nlmsg_len = sizeof *answers;
	answers[waiting].head.nlmsg_type = NLMSG_ERROR;
	answers[waiting].head.nlmsg_seq = sequence;
	answers[waiting].error = -error;
	waiting++;
	waiting_at = fd;
}

static int has_flags(const struct nlmsghdr *message)
{
	const char *at = (const char *)message + NLMSG_HDRLEN + 4, *end = (const char *)message + message->nlmsg_len;
	static const char none[4];

	for (; end - at >= NLA_HDRLEN; at += NLA_ALIGN(((const struct nlattr *)at)->nla_len))
		if (((const struct nlattr *)at)->nla_type == FLAGS)
			return memcmp(at + NLA_HDRLEN, none, 4) != 0;
	return 0;
}

/* Answers in the kernel's place; 1 where it did. */
static int refuse_protection(int fd, const struct nlmsghdr *first, size_t length)
{
	uint32_t refused = 0, last = 0;
	int left = (int)length;

	for (const struct nlmsghdr *m = first; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
		if (m->nlmsg_type == NEWTABLE && has_flags(m))
			refused = m->nlmsg_seq;
		if (m->nlmsg_flags & NLM_F_ACK)
			last = m->nlmsg_seq;
	}
	if (!refused)
		return 0;
	answer(fd, refused, EOPNOTSUPP);
	answer(fd, last, 0);
	return 1;
}

static int is_meant(const struct nlmsghdr *first, size_t length)
{
	int left = (int)length;

	if (!control->kind || !control->times)
		return 0;
	for (const struct nlmsghdr *m = first; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left))
		if (m->nlmsg_type == control->kind && ((m->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP) == (control->dump != 0))
			return 1;
	return 0;
}

static void refuse(int fd, const struct nlmsghdr *first, size_t length)
{
	int left = (int)length;

	for (const struct nlmsghdr *m = first; NLMSG_OK(m, left); m = NLMSG_NEXT(m, left)) {
		answer(fd, m->nlmsg_seq, (int)control->error);
		/* A batch as a whole. */
		if (m->nlmsg_type == BATCH_BEGIN)
			return;
	}
}

ssize_t sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t to_length)
{
	static char buffer[1 << 16];
	ssize_t sent;

	if (!is_netfilter(fd))
		return real_sendto(fd, data, length, flags, to, to_length);
	if (control->delay)
		usleep(control->delay);
	if (control->unprotected && refuse_protection(fd, data, length))
		return (ssize_t)length;
	if (!is_meant(data, length))
		return real_sendto(fd, data, length, flags, to, to_length);
	control->times--;
	control->hits++;
	if (control->error) {
		refuse(fd, data, length);
		return (ssize_t)length;
	}
	sent = real_sendto(fd, data, length, flags, to, to_length);
	while (real_recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) > 0)
		;
	return sent;
}

ssize_t recv(int fd, void *buffer, size_t length, int flags)
{
	size_t size = waiting * sizeof *answers;
	ssize_t received;

	if (waiting && fd == waiting_at && size <= length) {
		memcpy(buffer, answers, size);
		waiting = 0;
		return (ssize_t)size;
	}
	received = real_recv(fd, buffer, length, flags);
	if (received > 0 && control && control->events && is_netfilter(fd) && fcntl(fd, F_GETFL) & O_NONBLOCK) {
		control->events--;
		control->missed++;
		errno = ENOBUFS;
		return -1;
	}
	return received;
}
