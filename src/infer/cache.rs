//! Keys and values of the tokens so far, which later tokens attend to.

/// Room for `context` positions in every layer, in float32.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Numbers of one position in one layer: all key heads.
    width: usize,
    context: usize,
    /// Keys of each layer, position after position.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    len: usize,
}

impl Cache {
    /// An empty cache. Memory is taken as positions fill.
    pub fn new(layers: usize, width: usize, context: usize) -> Cache {
        let (keys, values) = (vec![Vec::new(); layers], vec![Vec::new(); layers]);
        Cache { width, context, keys, values, len: 0 }
    }

    /// Positions filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that are still free.
    pub fn free(&self) -> usize {
        self.context - self.len
    }

    /// Adds keys and values of new positions to `layer`.
    pub fn extend(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        for (all, new) in [(&mut self.keys[layer], keys), (&mut self.values[layer], values)] {
            all.truncate(self.len * self.width);
            all.extend_from_slice(new);
        }
    }

    /// Counts `n` positions, whose keys and values every layer now has.
    pub fn advance(&mut self, n: usize) {
        self.len += n;
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The key of `position`, `head` numbers from `at`.
    pub fn key(&self, layer: usize, position: usize, at: usize, head: usize) -> &[f32] {
        &self.keys[layer][position * self.width + at..][..head]
    }

    /// The value of `position`, `head` numbers from `at`.
    pub fn value(&self, layer: usize, position: usize, at: usize, head: usize) -> &[f32] {
        &self.values[layer][position * self.width + at..][..head]
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.keys.iter().chain(&self.values).map(|v| v.capacity() * size_of::<f32>()).sum()
    }
}
