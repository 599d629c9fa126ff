//! A map of bounded size that forgets the oldest first.

use std::collections::{BTreeMap, VecDeque};

/// What was worked out before and may be needed again.
#[derive(Debug)]
pub(crate) struct Bounded<K, V> {
    most: usize,
    entries: BTreeMap<K, V>,
    order: VecDeque<K>,
}

impl<K: Ord + Clone, V: Clone> Bounded<K, V> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, entries: BTreeMap::new(), order: VecDeque::new() }
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.entries.get(key).cloned()
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.entries.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > self.most {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first_and_a_repetition_takes_no_place() {
        let mut map = Bounded::new(2);
        for (key, value) in [(1, 'a'), (1, 'b'), (2, 'c'), (1, 'd'), (3, 'e')] {
            map.insert(key, value);
        }
        assert_eq!((map.get(&1), map.get(&2), map.get(&3)), (None, Some('c'), Some('e')));
        assert_eq!(map.order.len(), map.entries.len());
    }
}
