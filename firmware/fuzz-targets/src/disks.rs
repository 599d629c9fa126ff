//! What the installer reads of disks that anybody may have written: a partition table's beginning, and a boot partition.

use std::io::Cursor;

use installer::contents::contents;
use installer::stick::shipped_bytes;
use installer::switch;
use installer::table::{self, HEAD};

use crate::{Target, Verdict};

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "disk_table",
        about: "a disk's beginning and end, as the installer reads them: no place out of nothing, no word on the screen that could paint, a box's disk is called one",
        max_bytes: 2 * HEAD + 64,
        run: beginning,
        seeds: beginning_seeds,
    },
    Target {
        name: "stick_switch",
        about: "a boot partition: the bytes that make an image start otherwise, of which at most one is on",
        max_bytes: 4096,
        run: boot_partition,
        seeds: boot_partition_seeds,
    },
];

/// Two times twelve names of 36 characters, and the sentences around them.
const LONGEST: usize = 2000;

fn beginning(input: &[u8]) -> Verdict {
    // As it is, and with the checksums that no mutation would hit upon.
    let verdict = as_it_is(input);
    let mut counted = input.to_vec();
    if let Some(parts) = counted.get_mut(512..HEAD) {
        count(parts);
        as_it_is(&counted);
        assert!(
            table::read(&counted)
                .is_none_or(|table| table.whole == (counted[512 + 24..][..8] == 1_u64.to_le_bytes()))
        );
    }
    verdict
}

/// Writes the checksums of a head and its entries.
fn count(parts: &mut [u8]) {
    parts[12..16].copy_from_slice(&92_u32.to_le_bytes());
    let sum = table::crc32(&parts[512..]);
    parts[88..92].copy_from_slice(&sum.to_le_bytes());
    parts[16..20].fill(0);
    let sum = table::crc32(&parts[..92]);
    parts[16..20].copy_from_slice(&sum.to_le_bytes());
}

fn as_it_is(input: &[u8]) -> Verdict {
    // What a table's length leaves over is the disk's end.
    let (head, tail) = input.split_at(input.len().min(HEAD));
    let told = contents(head, tail, &[]);
    assert!(told.len() <= LONGEST, "more than a person reads");
    assert!(told.chars().all(|c| c == '\n' || c == ' ' || c.is_ascii_graphic()), "{told:?} could paint");
    let names = [table::read(head), table::read_second(tail)]
        .map(|table| table.map(|table| table.names).unwrap_or_default());
    let is_box = names.iter().any(|names| {
        names.iter().any(|name| name.starts_with("hearth_")) && names.iter().any(|name| name == "data")
    });
    assert_eq!(told.contains("IT IS THE DISK OF A HEARTH BOX"), is_box, "{told}");
    let Some(read) = table::read(input) else {
        assert!(shipped_bytes(input).is_err());
        return Verdict::Refused;
    };
    assert!(read.bytes > 0 && read.bytes % 512 == 0);
    if let Some(boot) = read.boot {
        assert!(boot.start < boot.end && boot.start % 512 == 0 && boot.end % 512 == 0);
    }
    assert_eq!(read.places.len(), read.names.len());
    for (place, before) in
        read.places.iter().zip([0].into_iter().chain(read.places.iter().map(|place| place.number)))
    {
        assert!(before < place.number && place.number <= 128, "a partition's number");
        let inside = |range: &std::ops::Range<u64>| range.start < range.end && range.end <= read.bytes;
        assert!(place.bytes.as_ref().is_none_or(inside), "a partition outside the disk");
    }
    // What a box made of itself is never copied, nor what is damaged.
    if let Ok(bytes) = shipped_bytes(input) {
        assert!(read.whole && read.names.len() == 3 && bytes == read.bytes);
    }
    Verdict::Taken
}

/// A table of a disk of a gigabyte with partitions of these names, the first of the boot partitions' kind.
fn named(names: &[&str]) -> Vec<u8> {
    let mut head = vec![0; HEAD];
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(512, b"EFI PART");
    put(512 + 24, &1_u64.to_le_bytes());
    put(512 + 32, &((1_u64 << 21) - 1).to_le_bytes());
    put(512 + 72, &2_u64.to_le_bytes());
    put(512 + 80, &128_u32.to_le_bytes());
    put(512 + 84, &128_u32.to_le_bytes());
    for (place, name) in names.iter().enumerate() {
        let (entry, first) = (1024 + 128 * place, u64::try_from(place).expect("a few") * 2048 + 2048);
        let boot =
            [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
        put(entry, if place == 0 { &boot } else { &[7; 16] });
        put(entry + 32, &first.to_le_bytes());
        put(entry + 40, &(first + 2047).to_le_bytes());
        for (number, unit) in name.encode_utf16().enumerate() {
            put(entry + 56 + 2 * number, &unit.to_le_bytes());
        }
    }
    count(&mut head[512..]);
    head
}

fn beginning_seeds() -> Vec<Vec<u8>> {
    // A disk whose first table was lost, with a first one of another system.
    let box_s = named(&["esp", "hearth_0.1.0", "hearth_0.1.0", "_empty", "_empty", "data"]);
    let last = (1_u64 << 21) - 1;
    let mut second = [&box_s[1024..], &box_s[512..1024]].concat();
    let header = second.len() - 512;
    second[header + 24..][..8].copy_from_slice(&last.to_le_bytes());
    second[header + 72..][..8].copy_from_slice(&(last - 32).to_le_bytes());
    vec![
        [named(&["EFI", "root"]), second].concat(),
        named(&["esp", "hearth_0.1.0", "hearth_verity_0.1.0"]),
        named(&["esp", "hearth_0.1.0", "hearth_verity_0.1.0", "_empty", "_empty", "data"]),
        named(&["EFI system partition", "Microsoft reserved partition", "Basic data partition", "\u{1b}[2J"]),
        vec![0; 1024],
    ]
}

fn boot_partition(input: &[u8]) -> Verdict {
    let all = 0..u64::try_from(input.len()).expect("a small input");
    let look = |bytes: &[u8]| switch::find(&mut Cursor::new(bytes), all.clone());
    let Ok(found) = look(input) else { return Verdict::Refused };
    let switches = [(Some(found.install), b'_'), (found.no_tpm, b'T')];
    let is_on = |switch: &Option<switch::Switch>| switch.is_some_and(|switch| switch.on);
    assert!(!(is_on(&switches[0].0) && is_on(&switches[1].0)), "two things at once");
    for (switch, off) in switches {
        let Some(switch) = switch else { continue };
        let at = usize::try_from(switch.at).expect("a small input");
        assert_eq!(input[at], if switch.on { b'S' } else { off }, "the byte does not say what it says");
        // Turned, it is the same place with the other word, or there would be two at once; the other switch stays as it is.
        let mut turned = input.to_vec();
        turned[at] = if switch.on { off } else { b'S' };
        if let Ok(now) = look(&turned) {
            let [was, is] = [found, now].map(|all| [Some(all.install), all.no_tpm]);
            for (was, is) in was.into_iter().zip(is) {
                let is_this = was.is_some_and(|was| was.at == switch.at);
                let wanted = was.map(|was| switch::Switch { on: was.on != is_this, ..was });
                assert_eq!(is, wanted, "turned at {at}");
            }
        } else {
            assert!(!switch.on, "what was turned on cannot be turned back");
        }
    }
    Verdict::Taken
}

/// A file system with sectors for its beginning, its table, its first folder and the one named here, which has these entries.
fn boot_partition_with(folder: &[u8; 12], entries: &[&[u8; 12]]) -> Vec<u8> {
    let mut bytes = vec![0; 4 * 512];
    let mut put = |at: usize, new: &[u8]| bytes[at..at + new.len()].copy_from_slice(new);
    put(11, &512_u16.to_le_bytes());
    put(13, &[1, 1, 0, 1]);
    put(36, &1_u32.to_le_bytes());
    put(44, &2_u32.to_le_bytes());
    put(510, &[0x55, 0xaa]);
    put(512 + 8, &[0xff; 8]);
    put(2 * 512, folder);
    put(2 * 512 + 26, &[3]);
    for (place, entry) in entries.iter().enumerate() {
        put(3 * 512 + 32 * place, *entry);
    }
    bytes
}

fn boot_partition_seeds() -> Vec<Vec<u8>> {
    let loader = b"LOADER     \x10";
    vec![
        boot_partition_with(loader, &[b"KEYS       \x10", b"ADDON_     \x10"]),
        boot_partition_with(loader, &[b"ADDONS     \x10"]),
        boot_partition_with(loader, &[b"ADDONS     \x20", b"ADDON_     \x10"]),
        boot_partition_with(loader, &[b"ADDON_     \x10", b"ADDONS     \x10"]),
        boot_partition_with(loader, &[b"ADDONT     \x10", b"ADDONS     \x10"]),
        boot_partition_with(loader, &[b"ADDON_     \x10", b"ADDONT     \x10"]),
        boot_partition_with(b"EFI        \x10", &[b"ADDON_     \x10"]),
    ]
}
