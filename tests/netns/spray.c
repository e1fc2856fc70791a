/* Sends to every port of a range in turn, at a rate: spray IP FIRST LAST PACKETS_A_SECOND rtp|random
 *
 * rtp: a proper stream for each port, one SSRC and numbers that advance. Until standard input ends; then what was sent and
 * what has come are printed, as JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 60, SIZE = 172 };

int main(int argc, char **argv)
{
	static uint8_t data[BATCH][SIZE];
	static struct mmsghdr messages[BATCH];
	static struct iovec vectors[BATCH];
	static struct sockaddr_in to[BATCH];
	char got[2048];
	unsigned long sent = 0, came = 0, round = 0;

	if (argc != 6)
		return 2;
	int first = atoi(argv[2]), last = atoi(argv[3]), rtp = !strcmp(argv[5], "rtp"), port = first;
	long step = 1000000000L / atoi(argv[4]) * BATCH;
	int sock = socket(AF_INET, SOCK_DGRAM, 0);
	struct timespec due;
	clock_gettime(CLOCK_MONOTONIC, &due);
	srandom(1);
	for (;;) {
		struct pollfd in = { 0, POLLIN, 0 };
		if (poll(&in, 1, 0) > 0)
			break;
		for (int i = 0; i < BATCH; i++) {
			for (int at = rtp ? 12 : 0; at < SIZE; at += 4) {
				uint32_t number = random();
				memcpy(data[i] + at, &number, 4);
			}
			if (rtp) {
				uint32_t words[3] = { htonl(0x80080000 | (round & 0xffff)), htonl(round * 160), htonl(0x5eed) };
				memcpy(data[i], words, sizeof words);
			}
			to[i] = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port) };
			inet_pton(AF_INET, argv[1], &to[i].sin_addr);
			vectors[i] = (struct iovec){ data[i], SIZE };
			messages[i].msg_hdr = (struct msghdr){ .msg_name = &to[i], .msg_namelen = sizeof to[i], .msg_iov = &vectors[i], .msg_iovlen = 1 };
			if (++port > last) {
				port = first;
				round++;
			}
		}
		int done = sendmmsg(sock, messages, BATCH, 0);
		sent += done > 0 ? done : 0;
		while (recv(sock, got, sizeof got, MSG_DONTWAIT) >= 0 || errno == ECONNREFUSED)
			came += errno != ECONNREFUSED, errno = 0;
		due.tv_nsec += step;
		due.tv_sec += due.tv_nsec / 1000000000L;
		due.tv_nsec %= 1000000000L;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
	}
	printf("{\"sent\": %lu, \"came\": %lu}\n", sent, came);
	return 0;
}
