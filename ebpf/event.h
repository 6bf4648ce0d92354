/* Telling the engine of a packet. */
#ifndef EVENT_H
#define EVENT_H

#include "packet.h"

INLINE void describe(struct __sk_buff *skb, const struct packet *packet, struct event *event,
		     __u32 captured, __u32 flags)
{
	event->at_ns = bpf_ktime_get_ns();
	event->length = packet->length;
	event->captured = captured;
	event->reply_tsval = 0;
	/* Segments in one piece are offload's, which has judged the checksum or leaves it undone. */
	if (skb->gso_size || bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0)
		flags |= EVENT_CHECKSUM_SETTLED;
	event->flags = flags;
}

/* A slot of the ring with the packet in it, to be submitted; NULL where the ring is full. */
INLINE struct small_event *take_small(struct __sk_buff *skb, const struct packet *packet,
				      __u32 flags)
{
	struct small_event *slot = bpf_ringbuf_reserve(&events, sizeof(*slot), 0);
	__u64 length = packet->length;

	if (!slot)
		return 0;
	FORGET(length);
	if (length > SMALL_PACKET)
		length = SMALL_PACKET;
	describe(skb, packet, &slot->event, length, flags);
	FORGET(length);
	if (length < 1 || length > SMALL_PACKET ||
	    load(skb, packet->start, slot->packet, length))
		slot->event.captured = 0;
	return slot;
}

INLINE void copy_large(struct __sk_buff *skb, const struct packet *packet, __u32 flags)
{
	__u32 key = 0;
	__u64 length = packet->length;
	struct large_event *large = bpf_map_lookup_elem(&scratch, &key);

	if (!large)
		return;
	if (length > LARGE_PACKET) {
		length = LARGE_PACKET;
		flags |= EVENT_CUT;
		count(COUNT_CUT);
	}
	describe(skb, packet, &large->event, length, flags);
	FORGET(length);
	if (length < 1 || length > LARGE_PACKET ||
	    load(skb, packet->start, large->packet, length))
		return;
	if (bpf_ringbuf_output(&events, large, sizeof(large->event) + length, 0))
		count(COUNT_LOST);
	else
		count(COUNT_COPIED);
}

FUNCTION void copy(struct __sk_buff *skb, const struct packet *packet, __u32 flags)
{
	struct small_event *slot;

	if (packet->length > SMALL_PACKET) {
		copy_large(skb, packet, flags);
		return;
	}
	slot = take_small(skb, packet, flags);
	if (!slot) {
		count(COUNT_LOST);
		return;
	}
	bpf_ringbuf_submit(slot, 0);
	count(COUNT_COPIED);
}

#endif
