/// A computation graph, for formats that carry one.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// The operators, in file order.
    pub nodes: Vec<GraphNode>,
    /// Names of the graph's inputs.
    pub inputs: Vec<String>,
    /// Names of the graph's outputs.
    pub outputs: Vec<String>,
}

/// One operator of a graph.
#[derive(Debug, Clone, Default)]
pub struct GraphNode {
    /// The operator's type, as the format spells it.
    pub operator: String,
    /// Its name, where it has one.
    pub name: String,
    /// Names of the values it reads.
    pub inputs: Vec<String>,
    /// Names of the values it makes.
    pub outputs: Vec<String>,
}
