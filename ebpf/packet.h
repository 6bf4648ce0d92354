/* Reading packets. Everything is read relative to the network header: tun and WireGuard devices
 * have no link-layer header, and pointers into the packet would take CAP_PERFMON. */
#ifndef PACKET_H
#define PACKET_H

#include "maps.h"

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* struct tcphdr, without its bit fields. */
struct segment {
	__be16 source;
	__be16 destination;
	__be32 seq;
	__be32 ack;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__sum16 check;
	__be16 urgent;
};

/* An IP packet, and where its parts are. */
struct packet {
	/* Whose it is, seen from here: `local` is the destination of what comes in. */
	struct ends ends __attribute__((aligned(8)));
	/* Bytes of VLAN tags between the network header and the IP header. */
	__u32 start;
	/* Of the transport header, from the network header. */
	__u32 transport;
	/* Bytes from the IP header on, and how many the header says. */
	__u32 length;
	__u32 said;
	__u8 protocol;
	__u8 is_ipv6;
	__u8 is_fragment;
	/* Of another network: a VLAN's. */
	__u8 is_tagged;
};

INLINE long load(struct __sk_buff *skb, __u32 offset, void *to, __u32 length)
{
	return bpf_skb_load_bytes_relative(skb, offset, to, length, BPF_HDR_START_NET);
}

INLINE void map_ipv4(__u8 to[16], __be32 address)
{
	__u32 *words = (__u32 *)to;

	words[0] = 0;
	words[1] = 0;
	words[2] = HTONL(0xffff);
	words[3] = address;
}

INLINE void copy_address(__u8 to[16], const struct in6_addr *address)
{
	__u32 *words = (__u32 *)to;

	words[0] = address->in6_u.u6_addr32[0];
	words[1] = address->in6_u.u6_addr32[1];
	words[2] = address->in6_u.u6_addr32[2];
	words[3] = address->in6_u.u6_addr32[3];
}

INLINE __be16 past_tag(struct __sk_buff *skb, struct packet *packet, __be16 protocol)
{
	__be16 tag[2];

	if (protocol != HTONS(ETH_P_8021Q) && protocol != HTONS(ETH_P_8021AD))
		return protocol;
	if (load(skb, packet->start, tag, sizeof(tag)))
		return 0;
	packet->start += sizeof(tag);
	packet->is_tagged |= (tag[0] & HTONS(0x0fff)) != 0;
	return tag[1];
}

/* Whether it is an IP packet; `comes_in` says which end is local. */
INLINE int read_packet(struct __sk_buff *skb, struct packet *packet, int comes_in, __u32 link_header)
{
	__be16 protocol = skb->protocol;

	packet->start = 0;
	/* VLAN 0 means a priority and no network (802.1Q, priority-tagged). */
	packet->is_tagged = skb->vlan_present && (skb->vlan_tci & 0x0fff);
	packet->is_fragment = 0;
	protocol = past_tag(skb, packet, protocol);
	protocol = past_tag(skb, packet, protocol);
	packet->length = skb->len - link_header - packet->start;
	if (protocol == HTONS(ETH_P_IP)) {
		struct iphdr ip;
		__u8 first;

		if (load(skb, packet->start, &ip, sizeof(ip)))
			return 0;
		first = *(__u8 *)&ip;
		if (first >> 4 != 4 || (first & 15) < 5)
			return 0;
		packet->is_ipv6 = 0;
		packet->protocol = ip.protocol;
		packet->is_fragment = (ip.frag_off & HTONS(0x3fff)) != 0;
		packet->transport = packet->start + (first & 15) * 4;
		packet->said = NTOHS(ip.tot_len);
		map_ipv4(comes_in ? packet->ends.peer : packet->ends.local, ip.saddr);
		map_ipv4(comes_in ? packet->ends.local : packet->ends.peer, ip.daddr);
	} else if (protocol == HTONS(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (load(skb, packet->start, &ip, sizeof(ip)))
			return 0;
		packet->is_ipv6 = 1;
		packet->protocol = ip.nexthdr;
		packet->is_fragment = ip.nexthdr == IPPROTO_FRAGMENT;
		packet->transport = packet->start + sizeof(ip);
		packet->said = ip.payload_len ? sizeof(ip) + NTOHS(ip.payload_len) : 0;
		copy_address(comes_in ? packet->ends.peer : packet->ends.local, &ip.saddr);
		copy_address(comes_in ? packet->ends.local : packet->ends.peer, &ip.daddr);
	} else {
		return 0;
	}
	/* Nothing is said of packets that offloads made larger than the field can say. */
	if (packet->said && packet->said < packet->length)
		packet->length = packet->said;
	return 1;
}

INLINE int has_port(const __u8 ports[PORT_SET_BYTES], __u16 port)
{
	return ports[port >> 3] >> (port & 7) & 1;
}

#endif
