#!/usr/bin/env bash
# Make linux-out.pcap and linux-in.pcap: what one Linux host sends to another, and what it receives.
#
# Two network namespaces and a veth pair between them; ARP, neighbour discovery, DHCP, ping, TCP and
# UDP over IPv4 and IPv6. Segmentation and checksum offloads are off, so each frame is as it would be
# on a wire. Needs root and Debian's iproute2, ethtool, tcpdump, iputils-ping, busybox, python3.
set -euo pipefail
cd "$(dirname "$0")"

client=ringlet-client server=ringlet-server
work=$(mktemp -d)
clean_up() {
    jobs -p | xargs -r kill 2>/dev/null || true
    ip netns del $client 2>/dev/null || true
    ip netns del $server 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT

ip netns add $client
ip netns add $server
ip -n $client link add eth0 address 02:00:00:00:00:01 type veth peer name eth0 netns $server address 02:00:00:00:00:02
for host in $client $server; do
    ip netns exec $host ethtool -K eth0 tx off rx off tso off gso off gro off >/dev/null
    ip -n $host link set lo up
done

ip -n $client link set eth0 up  # without a carrier nothing is sent yet
ip netns exec $client tcpdump -Z root -i eth0 -Q out -U -w "$work/out.pcap" 2>/dev/null &
ip netns exec $client tcpdump -Z root -i eth0 -Q in -U -w "$work/in.pcap" 2>/dev/null &
sleep 1
ip -n $server link set eth0 up
ip -n $server addr add 10.0.0.2/24 dev eth0
ip -n $server addr add fd00::2/64 dev eth0 nodad
ip -n $client addr add fd00::1/64 dev eth0 nodad
sleep 2

# DHCP: the client gets 10.0.0.1.
cat >"$work/udhcpd.conf" <<CONF
start 10.0.0.1
end 10.0.0.1
interface eth0
lease_file $work/leases
pidfile $work/udhcpd.pid
option subnet 255.255.255.0
CONF
touch "$work/leases"
cat >"$work/bound" <<'BOUND'
#!/bin/sh
[ "$1" = bound ] && ip addr add "$ip/24" dev "$interface"
exit 0
BOUND
chmod +x "$work/bound"
ip netns exec $server busybox udhcpd -f "$work/udhcpd.conf" 2>/dev/null &
sleep 0.5
ip netns exec $client busybox udhcpc -q -n -i eth0 -s "$work/bound" 2>/dev/null

for address in 10.0.0.2 fd00::2; do
    ip netns exec $client ping -q -c 4 -i 0.1 -s 56 $address >/dev/null
    ip netns exec $client ping -q -c 3 -i 0.1 -s 1400 $address >/dev/null
    ip netns exec $client ping -q -c 1 -s 4000 $address >/dev/null  # in fragments
done

cat >"$work/peer.py" <<'PEER'
"""Echo some bytes of TCP and of UDP, over both families: python3 peer.py server|client."""
import socket
import sys
import threading

TCP = bytes(range(256)) * 120
DATAGRAMS = [1, 18, 100, 512, 1000, 1472]
FAMILIES = [(socket.AF_INET, "10.0.0.2"), (socket.AF_INET6, "fd00::2")]


def listen(family, address):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, 5001))
    listener.listen()
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.bind((address, 5002))
    return listener, udp


def serve(listener, udp):
    link, _ = listener.accept()
    while received := link.recv(65536):
        link.sendall(received)
    link.close()
    for _ in DATAGRAMS:
        content, peer = udp.recvfrom(2000)
        udp.sendto(content, peer)


def ask(family, address):
    link = socket.create_connection((address, 5001))
    back = []

    def receive():
        while sum(map(len, back)) < len(TCP):
            back.append(link.recv(65536))

    receiver = threading.Thread(target=receive)
    receiver.start()
    link.sendall(TCP)
    receiver.join()
    assert b"".join(back) == TCP
    link.close()
    udp = socket.socket(family, socket.SOCK_DGRAM)
    for size in DATAGRAMS:
        udp.sendto(bytes(size), (address, 5002))
        udp.recvfrom(2000)


if sys.argv[1] == "server":
    for sockets in [listen(*family) for family in FAMILIES]:
        serve(*sockets)
else:
    for family in FAMILIES:
        ask(*family)
PEER
ip netns exec $server python3 "$work/peer.py" server &
peer=$!
sleep 0.5
ip netns exec $client python3 "$work/peer.py" client
wait $peer
sleep 0.5
pkill -INT -f "$work/" || true
sleep 0.5
cp "$work/out.pcap" linux-out.pcap
cp "$work/in.pcap" linux-in.pcap
