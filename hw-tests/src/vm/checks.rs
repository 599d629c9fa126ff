//! What every dev image must prove in a virtual box. One boot proves as much as possible: an emulated one takes a minute.

use std::time::Duration;

use super::Guest;

/// Generous, because a build host may be busy; a quiet one needs a third of it.
pub const BOOT_PATIENCE: Duration = Duration::from_secs(900);

/// One fact about a booted image: what it is called, the command that shows it, what the command must print.
struct Fact {
    name: &'static str,
    command: &'static str,
    prints: Prints,
}

enum Prints {
    Exactly(&'static str),
    Containing(&'static str),
}
use Prints::{Containing, Exactly};

const FACTS: &[Fact] = &[
    Fact {
        name: "every daemon is up",
        command: "systemctl is-active signer dv-node web",
        prints: Exactly("active\nactive\nactive"),
    },
    Fact {
        name: "no unit failed",
        command: "systemctl list-units --failed --no-legend --plain",
        prints: Exactly(""),
    },
    Fact {
        name: "/var is the encrypted partition",
        command: "findmnt -no SOURCE,FSTYPE /var",
        prints: Containing("/dev/mapper/data ext4"),
    },
    Fact {
        name: "/var is sealed to PCR 7 and 12 as they are now",
        command: "cryptsetup luksDump --dump-json-metadata /dev/disk/by-partlabel/data | tr -d ' \\n\\t'",
        prints: Containing(r#""tpm2-pcrs":[7,12]"#),
    },
    Fact {
        name: "/var is sealed to every PCR 11 that our key has signed",
        command: "cryptsetup luksDump --dump-json-metadata /dev/disk/by-partlabel/data | tr -d ' \\n\\t'",
        prints: Containing(r#""tpm2_pubkey_pcrs":[11]"#),
    },
    Fact {
        name: "the last phase of the boot is measured",
        command: "journalctl -b -o cat --no-pager -u systemd-pcrphase.service",
        prints: Containing("Extended PCR index 11 with 'ready'"),
    },
    Fact {
        name: "the root is a verity device",
        command: "findmnt -no SOURCE,FSTYPE /",
        prints: Containing("/dev/mapper/root erofs"),
    },
    Fact {
        name: "the root cannot be remounted for writing",
        command: "mount -o remount,rw / 2>/dev/null || echo refused",
        prints: Exactly("refused"),
    },
    Fact {
        name: "Secure Boot is enforced",
        command: "od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
        prints: Containing("1"),
    },
    Fact {
        name: "the kernel is locked down",
        command: "cat /sys/kernel/security/lockdown",
        prints: Containing("[integrity]"),
    },
    Fact { name: "no program is set-uid", command: "find / -xdev -perm /6000 -type f", prints: Exactly("") },
    Fact {
        name: "nothing else listens",
        command: "ss -Hlntu | grep -vE '127\\.0\\.0\\.5[34]|:443 |:361[0-7] |:68 |:5353 |\\[fe80' | wc -l",
        prints: Exactly("0"),
    },
    Fact {
        name: "the firewall drops by default",
        command: "nft list chain inet hearth input",
        prints: Containing("policy drop"),
    },
    Fact {
        // A neighbour behind a wire of our own: with a private address, with one of the internet, and with one of the internet
        // while the firewall is opened for it, which leaves the lock of the page's own socket. That it is open shows another
        // program, which has no such lock. (curl's time of connecting is nought when there was no connection.)
        name: "the page answers the owner's network and nobody else",
        command: "ip netns add neighbour && ip link add wire0 type veth peer name wire1 netns neighbour && \
                  ip addr add 192.168.77.1/24 dev wire0 && ip addr add 203.0.113.1/24 dev wire0 && ip link set wire0 up && \
                  ip -n neighbour addr add 192.168.77.2/24 dev wire1 && ip -n neighbour addr add 203.0.113.2/24 dev wire1 && \
                  ip -n neighbour link set wire1 up; \
                  ip netns exec neighbour curl --silent --insecure --output /dev/null --connect-timeout 30 --max-time 60 \
                  https://192.168.77.1/ && echo answered || echo silent; \
                  knock() { case $(ip netns exec neighbour curl --silent --output /dev/null --max-time 6 \
                  --write-out '%{time_connect}' http://203.0.113.1:$1/) in 0.000000) echo silent;; *) echo answered;; esac; }; knock 443; \
                  systemd-socket-activate --listen=8080 cat </dev/null >/dev/null 2>&1 & n=0; \
                  until ss -Hltn sport = :8080 | grep -q . || [ $n = 50 ]; do sleep 0.2; n=$((n + 1)); done; \
                  nft insert rule inet hearth input tcp dport '{ 443, 8080 }' accept && knock 8080 && knock 443; \
                  kill $! 2>/dev/null; nft -f /etc/nftables.conf; ip netns del neighbour",
        prints: Exactly("answered\nsilent\nanswered\nsilent"),
    },
    Fact {
        // From four processors on they have their own; on fewer they come before everybody else. `cores.service` is done before both of them start.
        name: "signer and node come first, on processors of their own where there are enough",
        command: "cd /sys/fs/cgroup && cat dv.slice/cpu.weight && \
                  cpus() { grep -h Cpus_allowed_list $(sed 's,.*,/proc/&/status,' $1) | cut -f2 | sort -u; }; \
                  if [ $(nproc --all) -ge 4 ]; then last=$(($(nproc --all) - 1)); \
                  cat dv.slice/cpuset.cpus.partition; for u in signer dv-node; do \
                  [ \"$(cpus dv.slice/$u.service/cgroup.procs)\" = $last ] && echo own || echo shared; done; \
                  [ \"$(cpus system.slice/web.service/cgroup.procs)\" = 0-$((last - 1)) ] && echo away || echo near; \
                  else echo isolated; for u in signer dv-node; do \
                  grep -q . dv.slice/$u.service/cgroup.procs && echo own; done; echo away; fi",
        prints: Exactly("1000\nisolated\nown\nown\naway"),
    },
    Fact {
        name: "the signer may open the TPM",
        command: "setpriv --reuid signer --regid signer --groups tss sh -c 'exec 3<>/dev/tpmrm0 && cat /run/systemd/tpm2-pcr-public-key.pem >/dev/null && head -c 1 /run/systemd/tpm2-pcr-signature.json'",
        prints: Exactly("{"),
    },
    Fact {
        // All it maps is locked (a share is never swapped), nobody may look at it or dump it, and it has no powers and no network.
        name: "the signer is locked in memory, closed to others and alone in its network",
        command: "cd /proc/$(systemctl show --property MainPID --value signer) && \
                  grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' status | tr -d ' \\t' && stat -c %U mem && \
                  grep -cE '^Max core file size +0 +0 ' limits && sed 1,2d net/dev | cut -d: -f1 | tr -d ' ' && \
                  kb() { sed -n \"s/^$1:[^0-9]*\\([0-9]*\\).*/\\1/p\" status; }; \
                  [ $(kb VmLck) -ge $(kb VmRSS) ] && [ $(kb VmRSS) -gt 0 ] && [ $(kb VmSwap) = 0 ] && echo locked; \
                  [ $(readlink ns/net) != $(readlink /proc/1/ns/net) ] && echo apart",
        prints: Exactly(
            "CapEff:0000000000000000\nCapBnd:0000000000000000\nNoNewPrivs:1\nSeccomp:2\nroot\n1\nlo\nlocked\napart",
        ),
    },
    Fact {
        // Root itself, once it is counted as one of the signer's processes; before, everything opens.
        name: "the signer's processes open the TPM and no other device",
        command: "bash -c 'try() { for d in tpmrm0 mapper/data zram0; do (exec 3</dev/$d) 2>/dev/null && echo yes || echo no; done; }; \
                  try; echo $$ >/sys/fs/cgroup/dv.slice/signer.service/cgroup.procs && try'",
        prints: Exactly("yes\nyes\nyes\nyes\nno\nno"),
    },
    Fact {
        name: "a disk filled by anybody else still takes the signer's history",
        command: "mkdir -m 777 /var/lib/full && cd /var/lib/full && \
                  setpriv --reuid 65534 --regid 65534 --clear-groups sh -c \
                  'fallocate -l $(($(stat -f -c %a .) * $(stat -f -c %S .))) all; n=0; \
                  while [ $n -lt 64 ] && head -c 4M /dev/zero >more$n; do n=$((n + 1)); done; \
                  sync .; head -c 64K /dev/zero >last && sync last && echo taken || echo refused' 2>/dev/null; \
                  setpriv --reuid signer --regid signer --clear-groups sh -c \
                  'head -c 1M /dev/zero >history && sync history && echo written'; cd /; rm -r /var/lib/full",
        prints: Exactly("refused\nwritten"),
    },
    Fact {
        // Later words are not looked at, whatever they are: as the page's own user, in place of the page.
        name: "what the page has to say is on the screen once",
        command: "said() { systemctl show --property ActiveState --value screen.service; \
                  journalctl -b -o cat --no-pager -u screen.service | grep -c '^hearth: '; }; said; \
                  setpriv --reuid web --regid web --clear-groups sh -c \
                  'cd /run/hearth/screen && printf \"\\033[2Jpainted\" >new && mv new notice && echo changed'; sleep 2; said",
        prints: Exactly("active\n3\nchanged\nactive\n3"),
    },
    Fact {
        // Such a stream can ask to be on the screen. The second, outside the page's view of the files, shows that the first would work.
        name: "neither page nor node nor who reads the network can open a stream to the journal",
        command: "for u in web dv-node systemd-resolved systemd-networkd ''; do ns=/proc/self/ns/mnt; \
                  [ -z \"$u\" ] || ns=/proc/$(systemctl show --property MainPID --value $u.service)/ns/mnt; \
                  nsenter --mount=$ns setpriv --reuid web --regid web --clear-groups systemd-cat true 2>/dev/null \
                  && echo reached || echo refused; done",
        prints: Exactly("refused\nrefused\nrefused\nrefused\nreached"),
    },
    Fact {
        // A process in foreign hands chooses its name and can end for lack of memory as often as it likes. Of what the kernel says then,
        // a release shows levels below 3 (`loglevel=3`, which the image's inspection asks for) on the screen; a dev image shows more.
        name: "what the kernel says about a process that ends for lack of memory stays off the screen",
        command: "grep -c ' loglevel=3 ' /proc/cmdline; cd /sys/fs/cgroup && mkdir -p small && echo 8M >small/memory.max && \
                  echo 0 >small/memory.swap.max && bash -c 'echo $$ >small/cgroup.procs; printf painter >/proc/self/comm; \
                  x=$(yes)' 2>/dev/null; rmdir small 2>/dev/null; n=0; \
                  until journalctl -b -k -p err -o cat --no-pager | grep -q 'Killed process .* (painter)' || [ $n = 20 ]; \
                  do sleep 0.5; n=$((n + 1)); done; \
                  journalctl -b -k -p err -o cat --no-pager | grep -q 'Killed process .* (painter)' && echo said; \
                  journalctl -b -k -p crit -o cat --no-pager | grep -c painter",
        prints: Exactly("1\nsaid\n0"),
    },
    Fact {
        // Threads count.
        name: "who speaks with strangers makes no crowd",
        command: "cd /sys/fs/cgroup; cat dv.slice/dv-node.service/pids.max system.slice/web.service/pids.max \
                  system.slice/chrony.service/pids.max system.slice/systemd-resolved.service/pids.max \
                  system.slice/systemd-networkd.service/pids.max; \
                  for u in dv.slice/dv-node system.slice/web system.slice/chrony; do \
                  [ $(cat $u.service/pids.peak) -le $(($(cat $u.service/pids.max) / 4)) ] && echo far; done",
        prints: Exactly("256\n64\n16\n16\n16\nfar\nfar\nfar"),
    },
    Fact {
        // Five lines of which its preflight makes the sum that the kernel's own file, which the unit hides (a sixth line here), would say.
        name: "the node sees how much of the memory is cache that can be had back",
        command: "ns=/proc/$(systemctl show --property MainPID --value dv-node.service)/ns/mnt; \
                  nsenter --mount=$ns setpriv --reuid dv-node --regid dv-node --clear-groups sh -c \
                  'ls /proc/meminfo >/dev/null 2>&1 && echo whole; cat /sys/devices/system/node/node*/meminfo' | \
                  grep -oE 'whole|MemTotal|MemFree|Active.file|Inactive.file|SReclaimable' | sort -u | grep -c .",
        prints: Exactly("5"),
    },
    Fact {
        name: "time is chrony's business",
        command: "systemctl is-active chrony",
        prints: Exactly("active"),
    },
    Fact {
        name: "somebody vouches for the clock, and goes on doing so",
        command: "cd /run/hearth-clock; stat -c '%U %a' synchronised; before=$(stat -c %Y synchronised); \
                  n=0; while [ $n -lt 45 ] && [ $(stat -c %Y synchronised) = $before ]; do sleep 1; n=$((n + 1)); done; \
                  [ $(stat -c %Y synchronised) -gt $before ] && echo again",
        prints: Exactly("_chrony 644\nagain"),
    },
    Fact {
        name: "what is seldom used is compressed, and nothing is swapped to a disk",
        command: "swapon --noheadings --show=NAME",
        prints: Exactly("/dev/zram0"),
    },
    Fact {
        name: "USB storage is not loaded for a stick",
        command: "modprobe --showconfig | grep -E '^install (usb_storage|uas) ' | sort",
        prints: Exactly("install uas /usr/bin/false\ninstall usb_storage /usr/bin/false"),
    },
    Fact {
        name: "the kernel's dangerous doors are closed",
        command: "sysctl -n kernel.io_uring_disabled kernel.kexec_load_disabled kernel.unprivileged_bpf_disabled kernel.yama.ptrace_scope kernel.sysrq",
        prints: Exactly("2\n1\n1\n2\n0"),
    },
    Fact {
        name: "the image lists what it is made of",
        command: "grep -o '\"purl\": \"pkg:cargo/blst@' /usr/share/hearth/sbom.cdx.json",
        prints: Containing("pkg:cargo/blst@"),
    },
    Fact {
        // systemd-boot's counter is in the file name until the image is blessed, a moment after the daemons are up.
        name: "the image is marked good",
        command: "for i in 1 2 3 4 5 6 7 8 9; do ls /boot/EFI/Linux | grep -q + || break; sleep 2; done; ls /boot/EFI/Linux | grep -c +",
        prints: Exactly("0"),
    },
];

/// Checks a box that is ready, and returns the facts that do not hold.
///
/// # Errors
/// When the guest's shell does not answer.
pub fn broken_facts<G: Guest>(guest: &mut G) -> Result<Vec<String>, G::Error> {
    let mut broken = Vec::new();
    for fact in FACTS {
        let output = guest.run(fact.command)?;
        let text = output.text.trim();
        let holds = match fact.prints {
            Exactly(expected) => text == expected,
            Containing(expected) => text.contains(expected),
        };
        if !holds {
            broken.push(format!("{}: `{}` printed `{text}`", fact.name, fact.command));
        }
    }
    Ok(broken)
}
