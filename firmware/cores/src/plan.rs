//! Which processors the duties get for themselves. Pure: what the machine has goes in, who may run where comes out.

use std::fmt::Write as _;

/// With fewer cores than this nobody is sent away: a beacon node on one core alone would fall behind the chain, and a box whose
/// beacon node is behind misses every duty, however quiet its own core is. There the slice's weight must do.
const LEAST_CORES: usize = 4;
/// From so many on there are two: one for the signer and one for the node.
const CORES_FOR_TWO: usize = 6;

/// Who runs where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// All that nobody else may use: whole cores, so that a core's other thread does not disturb.
    pub(crate) duties: Vec<u32>,
    /// The node's own. One, because in an isolated partition nothing moves between processors: a second would stay idle.
    pub(crate) node: u32,
    /// The signer's own; the node's again where there is only one.
    pub(crate) signer: u32,
    /// What is left for everything else, and for interrupts.
    pub(crate) others: Vec<u32>,
}

impl Plan {
    /// Every processor there is.
    pub(crate) fn all(&self) -> Vec<u32> {
        let mut all = [self.duties.as_slice(), &self.others].concat();
        all.sort_unstable();
        all
    }
}

/// Chooses among cores, each the list of its hardware threads. `None` when there are too few to give any away.
///
/// The last ones are taken, because the kernel and its interrupts start at the first.
pub(crate) fn plan(cores: &[Vec<u32>]) -> Option<Plan> {
    let cores: Vec<&Vec<u32>> = cores.iter().filter(|threads| !threads.is_empty()).collect();
    if cores.len() < LEAST_CORES {
        return None;
    }
    let taken = if cores.len() < CORES_FOR_TWO { 1 } else { 2 };
    let (left, ours) = cores.split_at(cores.len() - taken);
    let mut duties: Vec<u32> = ours.iter().flat_map(|threads| threads.iter().copied()).collect();
    let mut others: Vec<u32> = left.iter().flat_map(|threads| threads.iter().copied()).collect();
    duties.sort_unstable();
    others.sort_unstable();
    let node = *ours.first()?.first()?;
    // A core of its own, else the other thread of the node's core, else the same one.
    let signer = match ours {
        [_, second] => *second.first()?,
        [only] => *only.get(1).unwrap_or(&node),
        _ => node,
    };
    Some(Plan { duties, node, signer, others })
}

/// A list as the kernel writes it: `0-2,5`. `None` for anything else, or more processors than there can be.
pub(crate) fn read_list(text: &str) -> Option<Vec<u32>> {
    const MOST: u32 = 8192;
    let mut found = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        found.extend(first..=last);
    }
    found.sort_unstable();
    found.dedup();
    Some(found)
}

/// The same list in the kernel's words, one number after the other.
pub(crate) fn list(processors: &[u32]) -> String {
    processors.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// The list as a mask in the kernel's words: groups of 32 in hex, the highest first.
pub(crate) fn mask(processors: &[u32]) -> String {
    let groups = processors.iter().max().map_or(1, |highest| highest / 32 + 1);
    let mut text = String::new();
    for group in (0..groups).rev() {
        let bits = processors
            .iter()
            .filter(|processor| *processor / 32 == group)
            .fold(0_u32, |bits, processor| bits | 1 << (processor % 32));
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{bits:08x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(count: u32, threads: u32) -> Vec<Vec<u32>> {
        // As most firmware numbers them: all first threads, then all second ones.
        (0..count).map(|core| (0..threads).map(|thread| core + thread * count).collect()).collect()
    }

    #[test]
    fn a_small_machine_gives_nothing_away() {
        for count in 0..4 {
            assert_eq!(plan(&cores(count, 1)), None);
            assert_eq!(plan(&cores(count, 2)), None, "two threads are not two cores");
        }
    }

    #[test]
    fn four_cores_give_one_and_six_give_two() {
        let four = plan(&cores(4, 1)).unwrap();
        assert_eq!((four.duties, four.node, four.signer, four.others), (vec![3], 3, 3, vec![0, 1, 2]));
        let six = plan(&cores(6, 1)).unwrap();
        assert_eq!((six.duties, six.node, six.signer, six.others), (vec![4, 5], 4, 5, vec![0, 1, 2, 3]));
    }

    #[test]
    fn a_core_is_given_with_all_its_threads() {
        let four = plan(&cores(4, 2)).unwrap();
        assert_eq!((four.duties, four.node, four.signer), (vec![3, 7], 3, 7));
        assert_eq!(four.others, [0, 1, 2, 4, 5, 6]);
        let eight = plan(&cores(8, 2)).unwrap();
        assert_eq!((eight.duties, eight.node, eight.signer), (vec![6, 7, 14, 15], 6, 7));
    }

    #[test]
    fn every_processor_is_in_one_place_whatever_the_machine() {
        for count in 4..40 {
            for threads in 1..4 {
                let plan = plan(&cores(count, threads)).unwrap();
                assert_eq!(plan.all(), (0..count * threads).collect::<Vec<_>>());
                assert!(plan.duties.contains(&plan.node) && plan.duties.contains(&plan.signer));
                assert!(plan.others.len() >= plan.duties.len() * 2, "the others keep most of the machine");
            }
        }
    }

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        assert_eq!(read_list("0-2,5\n").unwrap(), [0, 1, 2, 5]);
        assert_eq!(read_list("\n").unwrap(), Vec::<u32>::new());
        for odd in ["x", "3-1", "0-99999999", "1-", "-1"] {
            assert_eq!(read_list(odd), None, "{odd}");
        }
        assert_eq!(list(&[0, 1, 5]), "0,1,5");
        assert_eq!(mask(&[0, 1, 2]), "00000007");
        assert_eq!(mask(&[1, 33]), "00000002,00000002");
        assert_eq!(mask(&[]), "00000000");
    }
}
