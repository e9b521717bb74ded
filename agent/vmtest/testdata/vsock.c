/* Tries the ways to make a vsock socket, and prints how each ends: an errno,
 * 0 if it works, -1 where the kernel lacks the way. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OP_SOCKET 45 /* IORING_OP_SOCKET, Linux 5.19 */

static int by_socket(void)
{
	return socket(AF_VSOCK, SOCK_STREAM, 0) < 0 ? errno : 0;
}

/* The 32-bit system call 102, whose arguments lie in memory. */
static int by_socketcall(void)
{
	int *args = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	long ret = 102;

	if (args == MAP_FAILED)
		return -1;
	args[0] = AF_VSOCK;
	args[1] = SOCK_STREAM;
	args[2] = 0;
	__asm__ volatile("int $0x80" : "+a"(ret) : "b"(1L), "c"(args) : "memory", "r8", "r9", "r10", "r11");
	return (int)ret == -ENOSYS ? -1 : (int)ret < 0 ? -(int)ret : 0;
}

static int by_io_uring(void)
{
	struct io_uring_params p;
	memset(&p, 0, sizeof p);
	int ring = syscall(SYS_io_uring_setup, 1, &p);
	if (ring < 0)
		return -1;
	char *sq = mmap(0, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	char *cq = mmap(0, p.cq_off.cqes + p.cq_entries * 16, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
	struct io_uring_sqe *sqe = mmap(0, p.sq_entries * sizeof *sqe, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || sqe == MAP_FAILED)
		return -1;
	memset(sqe, 0, sizeof *sqe);
	sqe->opcode = OP_SOCKET;
	sqe->fd = AF_VSOCK;
	sqe->off = SOCK_STREAM;
	*(unsigned *)(sq + p.sq_off.array) = 0;
	*(unsigned *)(sq + p.sq_off.tail) = 1;
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) != 1)
		return -1;
	struct io_uring_cqe *cqe = (void *)(cq + p.cq_off.cqes);
	return cqe->res == -EINVAL ? -1 : cqe->res < 0 ? -cqe->res : 0;
}

int main(void)
{
	/* Any other socket is nobody's business. */
	if (socket(AF_INET, SOCK_STREAM, 0) < 0 || socket(AF_UNIX, SOCK_STREAM, 0) < 0 || socket(AF_NETLINK, SOCK_RAW, 0) < 0) {
		perror("socket");
		return 1;
	}
	printf("socket %d socketcall %d io_uring %d\n", by_socket(), by_socketcall(), by_io_uring());
	return 0;
}
