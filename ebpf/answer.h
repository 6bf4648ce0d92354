/* The SYN-ACK, made of the SYN in place. It has to be, byte for byte, what
 * punch::Handshake::syn_ack makes of the same SYN: a test compares them. */
#ifndef ANSWER_H
#define ANSWER_H

#include "event.h"

/* The options that a SYN of ours has, and one of Linux's: anything else is left to the engine. */
struct syn {
	struct segment head;
	__be16 mss_option; /* kind 2, length 4 */
	__be16 mss;
	__be32 sack_and_timestamps; /* SACK permitted (4, 2), timestamps (8, 10) */
	__be32 tsval;
	__be32 tsecr;
	__u8 nop;
	__u8 scale_kind;
	__u8 scale_length;
	__u8 scale;
};

#define SACK_AND_TIMESTAMPS 0x0402080a
/* So many strangers are a flood, and the engine may want to be silent: punch::race. */
#define FLOOD 16
/* Three bits at the end of a timestamp tell our own SYN: punch::Offer. */
#define MARK 7

INLINE int is_usual(const struct syn *syn)
{
	return syn->head.offset >> 4 == sizeof(*syn) / 4 && syn->mss_option == HTONS(0x0204) &&
	       syn->sack_and_timestamps == HTONL(SACK_AND_TIMESTAMPS) && syn->nop == 1 &&
	       syn->scale_kind == 3 && syn->scale_length == 3;
}

/* Without a branch: the verifier follows both ways of each, one after the other. */
INLINE int is_expected_number(const struct reply *reply, __u32 number)
{
	__u32 differs = 1;

#pragma unroll
	for (int i = 0; i < MOST_EXPECTED; i++) {
		__u32 bits = reply->expected[i] ^ number;

		bits = (bits | -bits) >> 31;
		FORGET(bits);
		differs &= bits;
	}
	return !differs;
}

/* Whether its sender holds the key, or there is none. A middlebox may have changed the number, and
 * the echo then still says it. */
INLINE int is_expected(const struct reply *reply, const struct syn *syn)
{
	return !reply->expected_count || is_expected_number(reply, NTOHL(syn->head.seq)) ||
	       is_expected_number(reply, NTOHL(syn->tsecr));
}

/* Our own SYN, come back. */
INLINE int is_own(const struct reply *reply, const struct syn *syn)
{
	if (NTOHL(syn->head.seq) != reply->iss)
		return 0;
	return !reply->expected_count ||
	       (NTOHS(syn->head.window) == reply->window &&
		!((NTOHL(syn->tsval) ^ reply->mark) & MARK));
}

INLINE __u32 timestamp(const struct reply *reply, __u64 now_ns)
{
	__u32 tsval = (now_ns + (__u64)reply->wall_offset_ns) / 1000000;

	if (!reply->expected_count)
		return tsval;
	return ((tsval - MARK - 1) & ~MARK) | (reply->mark & MARK);
}

INLINE void fill_ipv4(struct iphdr *ip, const struct packet *packet)
{
	const __u32 *local = (const __u32 *)packet->ends.local;
	const __u32 *peer = (const __u32 *)packet->ends.peer;
	__u32 sum;

	*(__be32 *)ip = HTONL(0x45000000 | (sizeof(*ip) + sizeof(struct syn)));
	ip->id = 0;
	ip->frag_off = HTONS(0x4000); /* DF */
	ip->ttl = 64;
	ip->protocol = IPPROTO_TCP;
	ip->check = 0;
	ip->saddr = local[3];
	ip->daddr = peer[3];
	sum = HTONS(0x4500) + HTONS(sizeof(*ip) + sizeof(struct syn)) + HTONS(0x4000) +
	      HTONS(0x4000 | IPPROTO_TCP);
	sum += (local[3] & 0xffff) + (local[3] >> 16) + (peer[3] & 0xffff) + (peer[3] >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~sum;
}

INLINE void fill_ipv6(struct ipv6hdr *ip, const struct packet *packet)
{
	*(__be32 *)ip = HTONL(0x60000000);
	ip->payload_len = HTONS(sizeof(struct syn));
	ip->nexthdr = IPPROTO_TCP;
	ip->hop_limit = 64;
	__builtin_memcpy(&ip->saddr, packet->ends.local, 16);
	__builtin_memcpy(&ip->daddr, packet->ends.peer, 16);
}

INLINE long swap_link_addresses(struct __sk_buff *skb)
{
	__u16 from[6], to[6];

	if (bpf_skb_load_bytes(skb, 0, from, sizeof(from)))
		return -1;
#pragma unroll
	for (int i = 0; i < 6; i++)
		to[i] = from[(i + 3) % 6];
	return bpf_skb_store_bytes(skb, 0, to, sizeof(to), 0);
}

/* Turns the SYN into its SYN-ACK. Addresses change places and lengths stay, so the sum of the
 * pseudo header stays too; the header's own change goes into the checksum by its difference, which
 * is right for packets whose checksum is finished and for those that a device still has to finish. */
INLINE long turn_round(struct __sk_buff *skb, const struct packet *packet, struct syn *syn,
		       const struct reply *reply, __u32 tsval, __u32 link_header)
{
	__u32 transport = link_header + packet->transport;
	struct syn answer = {};
	__s64 change;

	answer.head.source = syn->head.destination;
	answer.head.destination = syn->head.source;
	answer.head.seq = HTONL(reply->iss);
	answer.head.ack = HTONL(NTOHL(syn->head.seq) + 1);
	answer.head.offset = sizeof(answer) / 4 << 4;
	answer.head.flags = TCP_SYN | TCP_ACK;
	answer.head.window = HTONS(reply->window);
	answer.head.check = syn->head.check;
	answer.mss_option = syn->mss_option;
	answer.mss = HTONS(reply->mss);
	answer.sack_and_timestamps = syn->sack_and_timestamps;
	answer.tsval = HTONL(tsval);
	answer.tsecr = reply->expected_count ? HTONL(reply->iss) : syn->tsval;
	answer.nop = 1;
	answer.scale_kind = 3;
	answer.scale_length = 3;
	answer.scale = reply->window_scale;
	change = bpf_csum_diff((__be32 *)syn, sizeof(*syn), (__be32 *)&answer, sizeof(answer), 0);
	if (change < 0)
		return -1;
	if (link_header && swap_link_addresses(skb))
		return -1;
	if (packet->is_ipv6) {
		struct ipv6hdr ip;

		fill_ipv6(&ip, packet);
		if (bpf_skb_store_bytes(skb, link_header, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM))
			return -1;
	} else {
		struct iphdr ip;

		/* The sum over a whole header is the same for every header. */
		fill_ipv4(&ip, packet);
		if (bpf_skb_store_bytes(skb, link_header, &ip, sizeof(ip), 0))
			return -1;
	}
	if (bpf_skb_store_bytes(skb, transport, &answer, sizeof(answer), 0))
		return -1;
	return bpf_l4_csum_replace(skb, transport + __builtin_offsetof(struct segment, check), 0,
				   change, 0);
}

/* The answer leaves before the engine is told: to wake somebody takes longer than all the rest. The
 * packet itself goes no further. */
INLINE int answer_syn(struct __sk_buff *skb, const struct packet *packet, struct syn *syn,
		      const struct reply *reply, __u32 link_header)
{
	struct small_event *slot = take_small(skb, packet, EVENT_STOLEN);
	__u32 tsval;

	if (!slot) {
		count(COUNT_LOST);
		return TC_ACT_SHOT;
	}
	tsval = timestamp(reply, slot->event.at_ns);
	/* An interface that cannot send leaves the answer to the engine. */
	if (!turn_round(skb, packet, syn, reply, tsval, link_header) &&
	    !bpf_clone_redirect(skb, skb->ifindex, 0)) {
		slot->event.flags |= EVENT_ANSWERED;
		slot->event.reply_tsval = tsval;
		count(COUNT_ANSWERED);
	}
	count(COUNT_COPIED);
	count(COUNT_STOLEN);
	bpf_ringbuf_submit(slot, 0);
	return TC_ACT_SHOT;
}

#endif
