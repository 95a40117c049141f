//! Each operator in its form on integers.

use weighbridge_core::Result;
use weighbridge_core::model::DType;

use super::{Dynamic, Product, Value, Weight, key, quant};
use crate::format::onnx::encode::Fields;
use crate::format::onnx::raw;
use crate::quantize::onnx::job::{FIRST_TWO, Linear};
use crate::quantize::onnx::params::Int;
use crate::quantize::onnx::rewrite::{Constant, Data, NewNode, data_type};
use crate::quantize::onnx::view::{float, input, int, output};

impl<'w> Dynamic<'w> {
    pub(super) fn matmul(&mut self, node: &'w raw::Node) -> Result<bool> {
        let Some(right) = self.weight(input(node, 1), false) else {
            return Ok(false);
        };
        self.product(&Product {
            at: node,
            name: node.name().to_owned(),
            left: input(node, 0),
            right,
            output: output(node, 0).to_owned(),
        });
        self.drop_node(node);
        Ok(true)
    }

    pub(super) fn gemm(&mut self, node: &'w raw::Node) -> Result<bool> {
        let turn = int(node, "transB", 0) != 0;
        let plain = float(node, "alpha", 1.0) == 1.0
            && float(node, "beta", 1.0) == 1.0
            && int(node, "transA", 0) == 0;
        let right = self.weight(input(node, 1), turn);
        let Some(right) = right.filter(|w| plain && w.held.tensor.shape.len() == 2) else {
            return Ok(false);
        };
        let named = |end: &str| match node.name() {
            "" => String::new(),
            name => format!("{name}{end}"),
        };
        let (bias, result) = (input(node, 2), output(node, 0));
        let product = match bias {
            "" => result.to_owned(),
            _ => self.out.fresh(format!("{result}_MatMul")),
        };
        self.product(&Product {
            at: node,
            name: named("_MatMul"),
            left: input(node, 0),
            right,
            output: product.clone(),
        });
        if !bias.is_empty() {
            self.read_wide(node, bias);
            let add = NewNode::new("Add", named("_Add"), &[&product, bias], &[result]);
            self.put(node, add);
        }
        self.drop_node(node);
        self.made.insert(result.to_owned());
        Ok(true)
    }

    pub(super) fn conv(&mut self, node: &'w raw::Node) -> Result<bool> {
        let Some(weight) = self.weight(input(node, 1), false) else {
            return Ok(false);
        };
        let rank = weight.held.tensor.shape.len();
        if rank < 2 {
            return Ok(false);
        }
        let left = self.activation(node, input(node, 0));
        let right = self.constant(weight, self.linear(None, false));
        let attributes = self.attributes(node, &[])?;
        let (name, bias, result) = (quant(node.name()), input(node, 2), output(node, 0));
        let scaled = match bias {
            "" => result.to_owned(),
            _ => self.out.fresh(format!("{result}quant_scaled_output")),
        };
        let inputs = [&left.integers, &right.integers, &left.zero, &right.zero];
        let output = (result, scaled.as_str());
        self.scaled(
            node,
            "ConvInteger",
            &name,
            &inputs,
            attributes,
            (&left, &right),
            output,
        );
        if !bias.is_empty() {
            self.read_wide(node, bias);
            let shape = self.out.fresh(format!("{result}_bias_reshape_shape"));
            let mut dims = vec![1i64; rank];
            if let Some(d) = dims.get_mut(1) {
                *d = -1;
            }
            let data = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
            let constant = Constant {
                name: shape.clone(),
                data_type: data_type(DType::I64),
                dims: vec![rank as u64],
                data: Data::Bytes(data),
            };
            self.out.constant(self.view.graph_of(node.span), constant);
            let shaped = self.out.fresh(format!("{result}_bias_reshape_output"));
            self.put(
                node,
                NewNode::new("Reshape", "", &[bias, &shape], &[&shaped]),
            );
            let name = format!("{result}_bias_add");
            self.put(
                node,
                NewNode::new("Add", name, &[&scaled, &shaped], &[result]),
            );
        }
        self.drop_node(node);
        self.made.insert(result.to_owned());
        Ok(true)
    }

    /// Rows of a constant stay integers; who needs floats makes them.
    pub(super) fn gather(&mut self, node: &'w raw::Node) -> bool {
        let (table, result) = (input(node, 0), output(node, 0));
        let Some(weight) = self.weight(table, false) else {
            return false;
        };
        if result.is_empty() {
            return false;
        }
        let value = self.rows(weight);
        self.through(node, result, value);
        true
    }

    /// An operator that moves values about moves integers as well.
    pub(super) fn direct(&mut self, node: &'w raw::Node) -> bool {
        let result = output(node, 0);
        let found = self.values.get(input(node, 0)).cloned();
        let Some(value) = found.filter(|v| !v.by_channel && !result.is_empty()) else {
            return false;
        };
        self.through(node, result, value);
        true
    }

    pub(super) fn lstm(&mut self, node: &'w raw::Node) -> Result<bool> {
        let found = (
            self.weight(input(node, 1), true),
            self.weight(input(node, 2), true),
        );
        let (Some(w), Some(r)) = found else {
            return Ok(false);
        };
        let rank = |w: &Weight<'_>| w.held.tensor.shape.len();
        if rank(&w) != 3 || rank(&r) != 3 || int(node, "layout", 0) != 0 {
            return Ok(false);
        }
        let again = |w: &Weight<'_>| self.values.contains_key(&key(w.name, false));
        if again(&w) || again(&r) {
            return Ok(false);
        }
        for i in [0, 3, 4, 5, 6, 7] {
            self.read_wide(node, input(node, i));
        }
        let (w, r) = (self.gates(w), self.gates(r));
        let mut inputs = vec![input(node, 0), &w.integers, &r.integers];
        inputs.extend((3..8).map(|i| input(node, i)));
        inputs.extend([&w.scale, &w.zero, &r.scale, &r.zero].map(String::as_str));
        let outputs: Vec<&str> = node.outputs.iter().map(|t| t.text.as_str()).collect();
        let mut new = NewNode::new("DynamicQuantizeLSTM", quant(node.name()), &inputs, &outputs);
        new.attributes = self.attributes(node, &["layout"])?;
        self.out.microsoft = true;
        self.put(node, new.microsoft());
        self.drop_node(node);
        self.made.extend(outputs.into_iter().map(str::to_owned));
        Ok(true)
    }

    /// Weights of gates: one scale for each direction, or for each direction and row.
    fn gates(&mut self, weight: Weight<'w>) -> Value {
        let mut linear = Linear {
            int: Int::I8,
            // The operator takes no other zero point than zero.
            symmetric: true,
            ..self.linear(Some(0), true)
        };
        if self.options.per_channel {
            linear.axis = Some(FIRST_TWO);
        }
        self.constant(weight, linear)
    }

    pub(super) fn attention(&mut self, node: &'w raw::Node) -> Result<bool> {
        let Some(weight) = self.weight(input(node, 1), false) else {
            return Ok(false);
        };
        if node.attribute("qkv_hidden_sizes").is_some() {
            return Ok(false);
        }
        for i in 2..node.inputs.len() {
            self.read_wide(node, input(node, i));
        }
        let left = self.activation(node, input(node, 0));
        let axis = match self.options.per_channel {
            true => weight.held.tensor.shape.len().checked_sub(1),
            false => None,
        };
        let right = self.constant(weight, self.linear(axis, false));
        let inputs = [
            &left.integers,
            &right.integers,
            input(node, 2),
            &left.scale,
            &right.scale,
            input(node, 3),
            &left.zero,
            &right.zero,
            input(node, 4),
        ];
        self.replace(node, "QAttention", &inputs)?;
        Ok(true)
    }

    pub(super) fn embed(&mut self, node: &'w raw::Node) -> Result<bool> {
        let tables: Vec<Option<Weight<'w>>> =
            (2..7).map(|i| self.weight(input(node, i), false)).collect();
        let all = (2..7)
            .zip(&tables)
            .all(|(i, t)| t.is_some() || input(node, i).is_empty());
        if !all || node.outputs.len() > 2 {
            return Ok(false);
        }
        let nothing = || Value {
            integers: String::new(),
            scale: String::new(),
            zero: String::new(),
            by_channel: false,
            constant: true,
        };
        let tables = tables
            .into_iter()
            .map(|t| t.map_or_else(nothing, |t| self.rows(t)));
        let tables: Vec<Value> = tables.collect();
        let mut inputs = vec![input(node, 0), input(node, 1)];
        inputs.extend(tables.iter().map(|t| t.integers.as_str()));
        inputs.push(input(node, 7));
        inputs.extend(tables.iter().map(|t| t.scale.as_str()));
        inputs.extend(tables.iter().map(|t| t.zero.as_str()));
        self.replace(node, "QEmbedLayerNormalization", &inputs)?;
        Ok(true)
    }

    /// Puts one operator of ONNX Runtime's in the place of another.
    fn replace(&mut self, node: &'w raw::Node, operator: &str, inputs: &[&str]) -> Result<()> {
        let outputs: Vec<&str> = node.outputs.iter().map(|t| t.text.as_str()).collect();
        let mut new = NewNode::new(operator, quant(node.name()), inputs, &outputs);
        new.attributes = self.attributes(node, &[])?;
        self.out.microsoft = true;
        self.put(node, new.microsoft());
        self.drop_node(node);
        self.made.extend(outputs.into_iter().map(str::to_owned));
        Ok(())
    }

    /// The attributes of a node, as they stand.
    fn attributes(&self, node: &raw::Node, without: &[&str]) -> Result<Vec<Fields>> {
        let kept = node.attributes.iter();
        let kept = kept.filter(|a| !without.contains(&a.name.text.as_str()));
        let read = |a: &raw::Attribute| self.source.read_vec(a.span.start..a.span.end);
        kept.map(|a| read(a).map(Fields)).collect()
    }
}
