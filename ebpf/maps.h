/* The maps, and the counters. */
#ifndef MAPS_H
#define MAPS_H

#include "abi.h"
#include "bpf.h"

/* One entry, whatever the number of ports. In an array it is compared without a call, and every
 * packet of the interface is compared with it. */
struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct rule);
} rule SECTION(".maps");

/* What differs from the rule. */
struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, 4096);
	UINT(map_flags, BPF_F_NO_PREALLOC);
	TYPE(key, struct tuple);
	TYPE(value, __u32);
} tuples SECTION(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct reply);
} reply SECTION(".maps");

/* How many segments of others there were since the reply was armed, and resets, which may be. */
struct {
	UINT(type, BPF_MAP_TYPE_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, __u64);
} strangers SECTION(".maps");

/* The size is given at load. */
struct {
	UINT(type, BPF_MAP_TYPE_RINGBUF);
	UINT(max_entries, 1 << 20);
} events SECTION(".maps");

/* Where a large packet is put together. */
struct {
	UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct large_event);
} scratch SECTION(".maps");

/* Named so that `doctor` finds it among all maps of the host. */
struct {
	UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	UINT(max_entries, COUNTS);
	TYPE(key, __u32);
	TYPE(value, __u64);
} punch_counts SECTION(".maps");

/* The rule, if it is about these two; NULL otherwise. */
INLINE struct rule *rule_between(const struct ends *ends)
{
	__u32 key = 0;
	struct rule *found = bpf_map_lookup_elem(&rule, &key);
	const __u64 *ours, *theirs = (const __u64 *)ends;

	if (!found)
		return 0;
	ours = (const __u64 *)&found->ends;
	if (((ours[0] ^ theirs[0]) | (ours[1] ^ theirs[1]) | (ours[2] ^ theirs[2]) |
	     (ours[3] ^ theirs[3])) != 0)
		return 0;
	return found;
}

FUNCTION void count(enum count which)
{
	__u32 key = which;
	__u64 *value = bpf_map_lookup_elem(&punch_counts, &key);

	if (value)
		*value += 1;
}

/* How many strangers there were before this one. */
INLINE __u64 count_stranger(void)
{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&strangers, &key);
	__u64 before = 0;

	if (value) {
		before = *value;
		__sync_fetch_and_add(value, 1);
	}
	return before;
}

INLINE __u64 strangers_so_far(void)
{
	__u32 key = 0;
	__u64 *value = bpf_map_lookup_elem(&strangers, &key);

	return value ? *value : 0;
}

#endif
