/* Telling the engine of a packet. */
#ifndef EVENT_H
#define EVENT_H

#include "packet.h"

INLINE void describe(struct __sk_buff *skb, __u32 length, struct event *event, __u32 captured,
		     __u32 flags)
{
	event->at_ns = bpf_ktime_get_ns();
	event->length = length;
	event->captured = captured;
	event->reply_tsval = 0;
	/* Segments in one piece are offload's, which has judged the checksum or leaves it undone. */
	if (skb->gso_size || bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0)
		flags |= EVENT_CHECKSUM_SETTLED;
	event->flags = flags;
}

/* A slot of the ring with the packet in it, to be submitted; NULL where the ring is full. */
INLINE struct small_event *take_small(struct __sk_buff *skb, __u32 start, __u32 length, __u32 flags)
{
	struct small_event *slot = bpf_ringbuf_reserve(&events, sizeof(*slot), 0);
	__u32 captured = length;

	if (!slot)
		return 0;
	if (captured > SMALL_PACKET)
		captured = SMALL_PACKET;
	describe(skb, length, &slot->event, captured, flags);
	if (!captured || load(skb, start, slot->packet, captured))
		slot->event.captured = 0;
	return slot;
}

INLINE void copy_large(struct __sk_buff *skb, __u32 start, __u32 length, __u32 flags)
{
	__u32 key = 0, captured = length;
	struct large_event *large = bpf_map_lookup_elem(&scratch, &key);

	if (!large)
		return;
	if (captured > LARGE_PACKET) {
		captured = LARGE_PACKET;
		flags |= EVENT_CUT;
		count(COUNT_CUT);
	}
	describe(skb, length, &large->event, captured, flags);
	if (!captured || load(skb, start, large->packet, captured))
		return;
	if (bpf_ringbuf_output(&events, large, sizeof(large->event) + captured, 0))
		count(COUNT_LOST);
	else
		count(COUNT_COPIED);
}

/* Likewise verified once. */
__attribute__((noinline)) int show(struct __sk_buff *skb, __u32 start, __u32 length, __u32 flags)
{
	struct small_event *slot;

	if (length > SMALL_PACKET) {
		copy_large(skb, start, length, flags);
		return 0;
	}
	slot = take_small(skb, start, length, flags);
	if (!slot) {
		count(COUNT_LOST);
		return 0;
	}
	bpf_ringbuf_submit(slot, 0);
	count(COUNT_COPIED);
	return 0;
}

INLINE void copy(struct __sk_buff *skb, const struct packet *packet, __u32 flags)
{
	show(skb, packet->start, packet->length, flags);
}

#endif
