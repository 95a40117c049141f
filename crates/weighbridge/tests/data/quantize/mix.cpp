// Prints the types that the rules of the reference quantizer choose; see make.sh.
#include "ggml.h"
#include "llama.h"

#include <algorithm>
#include <cinttypes>
#include <cstdarg>
#include <cstring>
#include <map>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

#define LLAMA_LOG_WARN(...)
#define LLAMA_LOG_INFO(...)

static std::string format(const char * text, ...) { return text; }

enum llm_arch { LLM_ARCH_LLAMA, LLM_ARCH_FALCON, LLM_ARCH_GLM5_NEXT, LLM_ARCH_BAILINGMOE3 };
enum llm_type { LLM_TYPE_UNKNOWN, LLM_TYPE_70B };
enum llm_tensor { LLM_TENSOR_POS_EMBD, LLM_TENSOR_TOKEN_TYPES };

struct LLM_TN {
    LLM_TN(llm_arch) {}
    std::string operator()(llm_tensor t, const char *) const {
        return t == LLM_TENSOR_POS_EMBD ? "position_embd.weight" : "token_types.weight";
    }
};

struct hparams_stub {
    uint32_t n_expert = 0, n_layer_all = 0, gqa = 1;
    uint32_t n_gqa() const { return gqa; }
};

struct llama_model {
    llm_arch arch = LLM_ARCH_LLAMA;
    llm_type type = LLM_TYPE_UNKNOWN;
    hparams_stub hparams;
};

// Elements of a block and the names, by number.
static const struct { int id, block; const char * name; } TYPES[] = {
    {0, 1, "F32"}, {1, 1, "F16"}, {2, 32, "Q4_0"}, {3, 32, "Q4_1"}, {6, 32, "Q5_0"},
    {7, 32, "Q5_1"}, {8, 32, "Q8_0"}, {10, 256, "Q2_K"}, {11, 256, "Q3_K"}, {12, 256, "Q4_K"},
    {13, 256, "Q5_K"}, {14, 256, "Q6_K"}, {16, 256, "IQ2_XXS"}, {17, 256, "IQ2_XS"},
    {18, 256, "IQ3_XXS"}, {19, 256, "IQ1_S"}, {20, 32, "IQ4_NL"}, {21, 256, "IQ3_S"},
    {22, 256, "IQ2_S"}, {23, 256, "IQ4_XS"}, {29, 256, "IQ1_M"}, {30, 1, "BF16"},
    {34, 256, "TQ1_0"}, {35, 256, "TQ2_0"}, {39, 32, "MXFP4"}, {41, 128, "Q1_0"}, {42, 64, "Q2_0"},
};

extern "C" {
int64_t ggml_blck_size(ggml_type t) {
    for (auto & x : TYPES) { if (x.id == t) { return x.block; } }
    abort();
}
const char * ggml_type_name(ggml_type t) {
    for (auto & x : TYPES) { if (x.id == t) { return x.name; } }
    abort();
}
bool ggml_is_quantized(ggml_type t) { return ggml_blck_size(t) > 1; }
const char * ggml_get_name(const ggml_tensor * t) { return t->name; }
int ggml_n_dims(const ggml_tensor * t) {
    for (int i = 3; i >= 1; --i) { if (t->ne[i] > 1) { return i + 1; } }
    return 1;
}
}

#include "rules.inc"

static void print(const char * arch, llama_model model, int ftype, bool imatrix, bool tied, int columns) {
    std::vector<std::string> names;
    if (!tied) { names.push_back("output.weight"); }
    names.push_back("output_norm.weight");
    names.push_back("token_embd.weight");
    const bool experts = model.hparams.n_expert > 1;
    for (uint32_t i = 0; i < model.hparams.n_layer_all; ++i) {
        const char * dense[] = {"attn_k", "attn_output", "attn_q", "attn_q_b", "attn_qkv", "attn_v", "ffn_down", "ffn_gate", "ffn_gate_inp", "ffn_up"};
        const char * moe[]   = {"attn_k", "attn_output", "attn_q", "attn_q_b", "attn_kv_b", "attn_v", "ffn_down_exps", "ffn_gate_exps", "ffn_gate_inp", "ffn_up_exps"};
        for (int p = 0; p < 10; ++p) {
            names.push_back("blk." + std::to_string(i) + "." + (experts ? moe : dense)[p] + ".weight");
        }
    }
    llama_model_quantize_params params = {};
    params.quantize_output_tensor = true;
    params.output_tensor_type = params.token_embedding_type = GGML_TYPE_COUNT;
    params.ftype = (llama_ftype) ftype;
    quantize_state_impl qs(model, &params);
    qs.has_imatrix = imatrix;
    std::vector<tensor_metadata> metadata(names.size());
    for (size_t i = 0; i < names.size(); ++i) { metadata[i].name = names[i]; }
    init_quantize_state_counters(qs, metadata);
    const ggml_type base = llama_ftype_get_default_type(params.ftype);
    printf("%s\t%u\t%u\t%u\t%d\t%d\t%d\t%d\t", arch, model.hparams.n_layer_all, model.hparams.n_expert, model.hparams.gqa, ftype, imatrix, tied, columns);
    // For each part of a layer, runs of one type as TYPE*N; a + behind a type says that it needs
    // a matrix.
    struct runs { std::string text, last; int n = 0; };
    std::vector<std::string> order;
    std::map<std::string, runs> parts;
    for (size_t i = 0; i < names.size(); ++i) {
        ggml_tensor t = {};
        strcpy(t.name, names[i].c_str());
        t.type = GGML_TYPE_F16;
        const bool norm = names[i].find("norm") != std::string::npos;
        t.ne[0] = columns;
        t.ne[1] = norm ? 1 : columns;
        t.ne[2] = names[i].find("exps") != std::string::npos ? model.hparams.n_expert : 1;
        t.ne[3] = 1;
        std::string type;
        try {
            const ggml_type to = llama_tensor_get_type(qs, &params, &t, base, metadata[i]);
            type = ggml_type_name(to);
            if (to != t.type && tensor_requires_imatrix(t.name, to, params.ftype)) { type += "+"; }
        } catch (const std::exception &) {
            type = "-";
        }
        const size_t dot = names[i].rfind("blk.", 0) == 0 ? names[i].find('.', 4) + 1 : 0;
        const std::string part = names[i].substr(dot);
        if (!parts.count(part)) { order.push_back(part); }
        runs & r = parts[part];
        if (type != r.last && r.n > 0) { r.text += r.last + "*" + std::to_string(r.n) + ","; r.n = 0; }
        r.last = type;
        ++r.n;
    }
    for (auto & part : order) {
        const runs & r = parts[part];
        printf("%s%s*%d ", r.text.c_str(), r.last.c_str(), r.n);
    }
    printf("\n");
}

int main() {
    const int ftypes[] = {0, 1, 2, 3, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 36, 37, 38, 40, 41};
    printf("arch\tlayers\texperts\tgqa\tftype\timatrix\ttied\tcolumns\ttypes\n");
    for (int f : ftypes) {
        struct { const char * name; llm_arch arch; llm_type type; unsigned layers, experts, gqa; bool tied; int columns; } cases[] = {
            {"llama", LLM_ARCH_LLAMA, LLM_TYPE_UNKNOWN, 22, 0, 1, false, 256},
            {"llama", LLM_ARCH_LLAMA, LLM_TYPE_UNKNOWN, 33, 0, 4, true, 256},
            {"llama", LLM_ARCH_LLAMA, LLM_TYPE_UNKNOWN, 5, 0, 0, false, 96},
            {"llama", LLM_ARCH_LLAMA, LLM_TYPE_UNKNOWN, 3, 0, 1, true, 48},
            {"qwen2", LLM_ARCH_LLAMA, LLM_TYPE_70B, 80, 0, 8, false, 512},
            {"llama", LLM_ARCH_LLAMA, LLM_TYPE_UNKNOWN, 17, 8, 4, false, 256},
            {"llama", LLM_ARCH_LLAMA, LLM_TYPE_UNKNOWN, 9, 4, 2, false, 256},
            {"falcon", LLM_ARCH_FALCON, LLM_TYPE_UNKNOWN, 32, 0, 71, true, 256},
            {"glm5-next", LLM_ARCH_GLM5_NEXT, LLM_TYPE_UNKNOWN, 9, 64, 1, false, 256},
            {"bailingmoe3", LLM_ARCH_BAILINGMOE3, LLM_TYPE_UNKNOWN, 7, 16, 4, false, 256},
        };
        for (auto & c : cases) {
            for (int imatrix = 0; imatrix < 2; ++imatrix) {
                llama_model model;
                model.arch = c.arch;
                model.type = c.type;
                model.hparams.n_layer_all = c.layers;
                model.hparams.n_expert = c.experts;
                model.hparams.gqa = c.gqa;
                print(c.name, model, f, imatrix, c.tied, c.columns);
            }
        }
    }
}
