/* What comes in for an attempt goes to the engine before this host's firewall and TCP see it; no
 * reset of this host's leaves for it. See docs/EBPF.md. */
#include "answer.h"

/* Bytes before the network header: 14 on Ethernet, 0 on devices without a link-layer header. */
volatile const __u32 link_header = ETH_HLEN;

/* With a key, so many segments of strangers are shown to the engine. */
#define STRANGERS_SHOWN 64

/* The packet that comes in. The verifier follows what it knows of the stack, case by case, and of a
 * map it knows nothing: loading takes a hundredth of the time. */
struct {
	UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct packet);
} packets SECTION(".maps");

/* Of an ICMP message, and of the packet that it quotes. */
#define ICMP_HEADER 8

INLINE int icmp(struct __sk_buff *skb, struct packet *packet)
{
	const __u8 echo_reply = packet->is_ipv6 ? 129 : 0;
	const __u8 echo_protocol = packet->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
	const __u8 unreachable = packet->is_ipv6 ? 1 : 3;
	const __u8 exceeded = packet->is_ipv6 ? 3 : 11;
	__u32 wanted = RULE_PROBES, quoted = packet->transport + ICMP_HEADER;
	struct rule *rule;
	__u8 type;

	if (packet->is_fragment || load(skb, packet->transport, &type, sizeof(type)))
		return TC_ACT_UNSPEC;
	if (type == unreachable || type == exceeded) {
		__u8 protocol;

		/* It is about a packet of ours to the peer, whoever sent it. */
		if (packet->is_ipv6) {
			struct ipv6hdr ip;

			if (load(skb, quoted, &ip, sizeof(ip)))
				return TC_ACT_UNSPEC;
			protocol = ip.nexthdr;
			copy_address(packet->ends.peer, &ip.daddr);
		} else {
			struct iphdr ip;

			if (load(skb, quoted, &ip, sizeof(ip)))
				return TC_ACT_UNSPEC;
			protocol = ip.protocol;
			map_ipv4(packet->ends.peer, ip.daddr);
		}
		if (protocol != echo_protocol)
			wanted = RULE_ERRORS;
	} else if (type != echo_reply) {
		return TC_ACT_UNSPEC;
	}
	rule = rule_between(&packet->ends);
	if (rule && (rule->flags & wanted)) {
		count(COUNT_ICMP);
		copy(skb, packet, 0);
	}
	return TC_ACT_UNSPEC;
}

INLINE int steal(struct __sk_buff *skb, const struct packet *packet, const struct rule *rule)
{
	if (rule->flags & RULE_HOST_TRACKS) {
		copy(skb, packet, 0);
		return TC_ACT_UNSPEC;
	}
	copy(skb, packet, EVENT_STOLEN);
	count(COUNT_STOLEN);
	return TC_ACT_SHOT;
}

INLINE int handshake(struct __sk_buff *skb, const struct packet *packet, const struct rule *rule,
		     struct syn *syn, __u32 tuple_flags)
{
	__u32 key = 0, bare;
	struct reply *how = bpf_map_lookup_elem(&reply, &key);
	int asked, plain;

	if (!how || !how->armed || !is_usual(syn))
		return steal(skb, packet, rule);
	if (!is_expected(how, syn)) {
		count(COUNT_FOREIGN);
		if (count_stranger() < STRANGERS_SHOWN || (rule->flags & RULE_HOST_TRACKS))
			return steal(skb, packet, rule);
		count(COUNT_STOLEN);
		return TC_ACT_SHOT;
	}
	if ((syn->head.flags & TCP_ACK) || (rule->flags & RULE_HOST_TRACKS))
		return steal(skb, packet, rule);
	if (is_own(how, syn)) {
		count(COUNT_OWN);
		return steal(skb, packet, rule);
	}
	asked = how->everywhere ? has_port(rule->remotes, NTOHS(syn->head.source)) :
				  (tuple_flags & TUPLE_ANSWER) != 0;
	/* Neither IP options, nor a tag, nor padding where the link header is not known, nor data. */
	bare = packet->is_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	plain = packet->transport == bare && !skb->vlan_present &&
		packet->said == bare + sizeof(*syn) && packet->length == packet->said &&
		(link_header || skb->len == packet->said);
	if (!asked || !plain || strangers_so_far() >= FLOOD)
		return steal(skb, packet, rule);
	return answer_syn(skb, packet, syn, how, link_header);
}

INLINE int segment(struct __sk_buff *skb, struct packet *packet)
{
	struct rule *rule = rule_between(&packet->ends);
	struct tuple tuple;
	__u32 size, *exact, flags;
	struct syn syn;

	if (!rule)
		return TC_ACT_UNSPEC;
	if (packet->is_fragment) {
		count(COUNT_FRAGMENTS);
		return TC_ACT_UNSPEC;
	}
	if (load(skb, packet->transport, &syn, sizeof(syn.head))) {
		count(COUNT_TRUNCATED);
		return TC_ACT_UNSPEC;
	}
	if (!has_port(rule->locals, NTOHS(syn.head.destination)))
		return TC_ACT_UNSPEC;
	if (packet->is_tagged) {
		count(COUNT_VLAN);
		return TC_ACT_UNSPEC;
	}
	size = (syn.head.offset >> 4) * 4;
	if (size < sizeof(syn.head) || packet->said > packet->length ||
	    packet->transport - packet->start + size > packet->length) {
		count(COUNT_TRUNCATED);
		return TC_ACT_UNSPEC;
	}
	tuple.ends = packet->ends;
	tuple.local_port = NTOHS(syn.head.destination);
	tuple.peer_port = NTOHS(syn.head.source);
	exact = bpf_map_lookup_elem(&tuples, &tuple);
	flags = exact ? *exact : 0;
	if (flags & TUPLE_RELEASED) {
		count(COUNT_RELEASED);
		return TC_ACT_UNSPEC;
	}
	/* Another connection between the two hosts, as with a server that lives beside the peer, or
	 * the peer behind a router that maps ports otherwise. The guard keeps the kernel silent. */
	if (!has_port(rule->remotes, tuple.peer_port)) {
		if (!(syn.head.flags & TCP_RST) || (rule->flags & RULE_RESETS))
			copy(skb, packet, 0);
		return TC_ACT_UNSPEC;
	}
	if (syn.head.flags & TCP_RST) {
		count(COUNT_RESETS);
		if (rule->flags & RULE_RESETS) {
			count_stranger();
			copy(skb, packet, EVENT_STOLEN);
		}
		count(COUNT_STOLEN);
		return TC_ACT_SHOT;
	}
	if (flags & TUPLE_LET_IN) {
		count(COUNT_LET_IN);
		copy(skb, packet, 0);
		return TC_ACT_UNSPEC;
	}
	if (!(syn.head.flags & TCP_SYN) || (syn.head.flags & TCP_FIN) || size != sizeof(syn) ||
	    load(skb, packet->transport, &syn, sizeof(syn)))
		return steal(skb, packet, rule);
	return handshake(skb, packet, rule, &syn, flags);
}

SECTION("classifier")
int ingress(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct packet *packet = bpf_map_lookup_elem(&packets, &key);

	if (!packet || skb->pkt_type != PACKET_HOST || !read_packet(skb, packet, 1, link_header))
		return TC_ACT_UNSPEC;
	if (packet->protocol == IPPROTO_TCP)
		return segment(skb, packet);
	if (packet->is_ipv6 && packet->is_fragment && rule_between(&packet->ends)) {
		count(COUNT_FRAGMENTS);
		return TC_ACT_UNSPEC;
	}
	if (packet->protocol == (packet->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP) &&
	    !packet->is_tagged)
		return icmp(skb, packet);
	return TC_ACT_UNSPEC;
}

SECTION("classifier")
int egress(struct __sk_buff *skb)
{
	struct packet packet;
	struct segment head;
	struct tuple tuple;
	struct rule *rule;
	__u32 *exact;

	if (!read_packet(skb, &packet, 0, link_header) || packet.protocol != IPPROTO_TCP ||
	    packet.is_fragment || packet.is_tagged)
		return TC_ACT_UNSPEC;
	rule = rule_between(&packet.ends);
	if (!rule || load(skb, packet.transport, &head, sizeof(head)) || !(head.flags & TCP_RST) ||
	    !has_port(rule->locals, NTOHS(head.source)))
		return TC_ACT_UNSPEC;
	tuple.ends = packet.ends;
	tuple.local_port = NTOHS(head.source);
	tuple.peer_port = NTOHS(head.destination);
	exact = bpf_map_lookup_elem(&tuples, &tuple);
	if (exact && (*exact & TUPLE_RELEASED))
		return TC_ACT_UNSPEC;
	count(COUNT_RESETS_HELD_BACK);
	return TC_ACT_SHOT;
}

/* The helpers that it calls ask for no other licence. */
char licence[] SECTION("license") = "MIT";
