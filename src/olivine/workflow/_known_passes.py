"""Passes of Olive that olivine does not have: a config that names one is right, and told what to use instead."""

_INTERNAL = "Leave it out: it prepares what later passes of Olive need, and passes here find it out by themselves."
_OPTIMUM = (
    "It needs optimum-intel, of which no release works beside transformers 5; OpenVINOConversion makes a model of "
    "OpenVINO of a checkpoint, and OpenVINOWeightCompression rounds its weights to 8 or 4 bits."
)
_PACKAGE = (
    "It needs onnxruntime-ep-openvino, which compiles for an NPU; OpenVINOEncapsulation makes a graph for the provider."
)
_QNN = "It needs the QNN SDK of Qualcomm; OnnxStaticQuantization with QDQ makes a graph that QNN's provider takes."
_SNPE = "It needs the SNPE SDK of Qualcomm; OnnxConversion and OnnxStaticQuantization make a graph for any provider."
_VITIS = "It needs the tools of AMD; OnnxStaticQuantization with QDQ makes a graph that VitisAI's provider takes."
_NVIDIA = "It needs nvidia-modelopt; OnnxBlockWiseRtnQuantization rounds the weights of a graph to 4 bits."
_INC = "It needs neural-compressor; OnnxStaticQuantization and OnnxDynamicQuantization do the same."
_WEIGHTS = "Use Gptq, AutoAWQQuantizer or Rtn, which quantize a checkpoint, and ModelBuilder after it."
_PRUNING = "Nothing here prunes weights; Gptq or ModelBuilder with precision int4 make a model smaller."
_SPLIT = "Nothing here spreads a layer over several devices; SplitModel cuts a graph into parts that follow each other."
_BLOCKS = "Use OnnxBlockWiseRtnQuantization, or ModelBuilder with precision int4."
_BEAMS = (
    "ModelBuilder in place of OnnxConversion makes a model, a Whisper too, that onnxruntime-genai searches in, with "
    "num_beams under search."
)

# name in lower case -> what to use in its place, a sentence
OLIVE_PASSES = {
    "addolivemetadata": "Leave it out: workflow.json and journal.jsonl tell how a model was made.",
    "aimetquantization": "It needs aimet; OnnxStaticQuantization with QDQ makes such a graph.",
    "appendprepostprocessingops": "Nothing here puts operators for images, sound or text into a graph; leave it out. A "
    "Whisper by ModelBuilder reads WAV files and writes text as it is.",
    "autoclip": "Leave it out: Gptq and KQuant search the range of each group of weights by themselves.",
    "capturelayerannotations": "Leave it out: it only marks nodes for tools that read such marks.",
    "devicespecificonnxconversion": "Use OnnxConversion, whose device is that of its host.",
    "epcontextbinarygenerator": "Compile the result where the execution provider is; its first session does so.",
    "genaimodelexporter": "Use ModelBuilder, as it is called today.",
    "hqqquantizer": _WEIGHTS,
    "incdynamicquantization": _INC,
    "incquantization": _INC,
    "incstaticquantization": _INC,
    "inputnchwtonhwc": "Nothing here changes the order of an image's axes; export the model as it is to be.",
    "insertbeamsearch": _BEAMS,
    "mobiusbuilder": "Use ModelBuilder.",
    "llamapytorchtensorparallel": _SPLIT,
    "moeexpertsdistributor": _SPLIT,
    "nvmodeloptgraphsurgery": _NVIDIA,
    "nvmodeloptquantization": _NVIDIA,
    "onnxfloat16tofloat32": "Export the model in fp32.",
    "onnxiofloat16tofloat32": "Export the model with the types that are wanted.",
    "onnxquantizationpreprocess": _INTERNAL,
    "openvinomodelpackage": _PACKAGE,
    "openvinooptimumconversion": _OPTIMUM,
    "poweroftwomethod": _VITIS,
    "pytorchtensorparallel": _SPLIT,
    "qairtencapsulation": _QNN,
    "qairtgenaibuilder": _QNN,
    "qairtmha2sha": _QNN,
    "qairtpipelinepass": _QNN,
    "qairtpreparation": _QNN,
    "qnncontextbinarygenerator": _QNN,
    "qnnconversion": _QNN,
    "qnnmodellibgenerator": _QNN,
    "quantizationawaretraining": "Fine-tune the model, and quantize it with a calibrating pass after it.",
    "quarkquantization": "It needs amd-quark; Gptq, AutoAWQQuantizer or Rtn quantize a checkpoint.",
    "sdlora": "Only language models are fine-tuned here, with LoRA and its kin.",
    "slicegpt": _PRUNING,
    "snpeconversion": _SNPE,
    "snpequantization": _SNPE,
    "snpetoonnxconversion": _SNPE,
    "sparsegpt": _PRUNING,
    "staticllm": "ModelBuilder makes a model whose shapes are open; after SplitModel, DynamicToFixedShape fixes those "
    "of each part.",
    "tensorrtmodeloptquantization": _NVIDIA,
    "torchtrtconversion": "It needs torch-tensorrt; OnnxConversion makes a graph that TensorRT's provider takes.",
    "transformersoptimization": "Leave it out: onnxruntime optimizes a graph when it loads it.",
    "trtmatmultoconvtransform": _NVIDIA,
    "vitisaiaddmetadata": _VITIS,
    "vitisaiquantization": _VITIS,
    "vitisgeneratemodelllm": _VITIS,
    "vitisgeneratemodelsd": _VITIS,
    "vitisqdqquantizer": _VITIS,
    "vitisqopquantizer": _VITIS,
}
