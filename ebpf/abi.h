/* What the programs share with src/sys/ebpf/abi.rs, which mirrors every struct here; a test there
 * compares sizes and offsets with the BTF of the object. Addresses are IPv6 addresses in network
 * order, IPv4 ones mapped (RFC 4291 section 2.5.5.2); ports and numbers are in host order. */
#ifndef ABI_H
#define ABI_H

#include <linux/types.h>

/* A port set: port P is bit P % 8 of byte P / 8. */
#define PORT_SET_BYTES 8192
/* With a key the peer may start at one of so many numbers. */
#define MOST_EXPECTED 8

/* Whose packets are looked at. */
struct ends {
	__u8 local[16];
	__u8 peer[16];
};

struct rule {
	struct ends ends;
	__u32 flags;
	/* 0. Keeps the size a multiple of 8. */
	__u32 unused;
	__u8 locals[PORT_SET_BYTES];
	__u8 remotes[PORT_SET_BYTES];
};

enum rule_flags {
	/* Resets are copied; they are stolen either way. */
	RULE_RESETS = 1,
	/* Echo replies of the peer's, and errors about our echo requests, are copied. */
	RULE_PROBES = 2,
	/* Errors about anything else that we sent to the peer are copied. */
	RULE_ERRORS = 4,
	/* This host's connection tracking is active and has to see what it is to know. */
	RULE_HOST_TRACKS = 8,
};

struct tuple {
	struct ends ends;
	__u16 local_port;
	__u16 peer_port;
};

/* Flags of a tuple, the value of the map of tuples. */
enum tuple_flags {
	/* A SYN may be answered here. */
	TUPLE_ANSWER = 1,
	/* A socket is installed. */
	TUPLE_LET_IN = 2,
	/* Handed over. */
	TUPLE_RELEASED = 4,
};

/* How a SYN is answered: punch::Handshake's SYN-ACK. */
struct reply {
	/* From the clock of bpf_ktime_get_ns to the wall clock. */
	__s64 wall_offset_ns;
	__u32 armed;
	__u32 iss;
	/* Any slot that is left over repeats another one. */
	__u32 expected[MOST_EXPECTED];
	/* 0: no key, any number is expected. */
	__u32 expected_count;
	/* On every tuple of the rule's port sets, not only on those with TUPLE_ANSWER. */
	__u32 everywhere;
	__u16 window;
	__u16 mss;
	__u8 window_scale;
	__u8 mark;
	__u16 unused;
};

struct event {
	/* bpf_ktime_get_ns when the program saw it. */
	__u64 at_ns;
	/* From the IP header on; more than `captured` where EVENT_CUT is set. */
	__u32 length;
	__u32 captured;
	/* The timestamp value of the SYN-ACK, with EVENT_ANSWERED. */
	__u32 reply_tsval;
	__u32 flags;
	/* The packet follows. */
};

enum event_flags {
	EVENT_STOLEN = 1,
	EVENT_ANSWERED = 2,
	EVENT_CHECKSUM_SETTLED = 4,
	EVENT_CUT = 8,
};

/* Packets up to this size take one slot each of the ring; a SYN has 60 or 80 bytes. */
#define SMALL_PACKET 104
/* The first flight of a peer (RFC 6928) in one piece; what is larger is cut. */
#define LARGE_PACKET 16384

struct small_event {
	struct event event;
	__u8 packet[SMALL_PACKET];
};

struct large_event {
	struct event event;
	__u8 packet[LARGE_PACKET];
};

/* Indexes into the map of counters. */
enum count {
	COUNT_COPIED,
	COUNT_STOLEN,
	COUNT_LET_IN,
	COUNT_RELEASED,
	COUNT_ANSWERED,
	COUNT_RESETS,
	COUNT_RESETS_HELD_BACK,
	COUNT_FOREIGN,
	COUNT_OWN,
	COUNT_ICMP,
	COUNT_FRAGMENTS,
	COUNT_TRUNCATED,
	COUNT_VLAN,
	COUNT_CUT,
	COUNT_LOST,
	COUNTS,
};

#endif
