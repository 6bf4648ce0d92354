/* A wall clock that is set while a program runs, for that program alone: preloaded, and told by a
 * file of eight bytes how many nanoseconds it is ahead. libfaketime does the same, but overlooks
 * one change of its file in three. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int (*kernels)(clockid_t, struct timespec *);
static const volatile long long *ahead;

__attribute__((constructor)) static void begin(void)
{
	int file = open(getenv("CLOCK_AHEAD"), O_RDONLY | O_CLOEXEC);
	void *page = mmap(0, sizeof(*ahead), PROT_READ, MAP_SHARED, file, 0);

	if (page == MAP_FAILED)
		abort();
	close(file);
	kernels = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	ahead = page;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
	int result = kernels(clock, time);
	long long ns;

	if (result || clock != CLOCK_REALTIME)
		return result;
	ns = time->tv_sec * 1000000000LL + time->tv_nsec + *ahead;
	time->tv_sec = ns / 1000000000;
	time->tv_nsec = ns % 1000000000;
	return 0;
}
