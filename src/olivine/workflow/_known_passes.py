"""Passes of Olive that olivine knows by name and does not have: a config that names one is right, and cannot run yet."""

OLIVE_PASSES = frozenset(
    name.lower()
    for name in (
        "AddOliveMetadata AppendPrePostProcessingOps AutoAWQQuantizer AutoClip AutoGPTQQuantizer CaptureSplitInfo "
        "ComposeOnnxModels DoRA DynamicToFixedShape EPContextBinaryGenerator ExtractAdapters Gptq GptqModel GptqQuantizer "
        "GraphSurgeries HqqQuantizer IncDynamicQuantization IncQuantization IncStaticQuantization "
        "InputNCHWtoNHWC InsertBeamSearch KQuant LoHa LoKr LoftQ MatMulNBitsToQDQ MixedPrecisionOverrides "
        "MoEExpertsDistributor NVModelOptQuantization OnnxBlockWiseRtnQuantization OnnxBnb4Quantization OnnxConversion "
        "OnnxDiscrepancyCheck OnnxDynamicQuantization OnnxFloat16ToFloat32 OnnxFloatToFloat16 OnnxHqqQuantization "
        "OnnxIODataTypeConverter OnnxKQuantQuantization OnnxMatMul4Quantizer OnnxOpVersionConversion OnnxPeepholeOptimizer "
        "OnnxQuantization OnnxScriptFusion OnnxStaticQuantization OnnxTransformersOptimization OpenVINOConversion "
        "OpenVINOEncapsulation OpenVINOIoUpdate OpenVINOOptimumConversion OpenVINOQuantization "
        "OpenVINOQuantizationWithAccuracy OpenVINOReshape OpenVINOWeightCompression OptimumConversion OptimumMerging "
        "OrtMixedPrecision OrtPerfTuning OrtSessionParamsTuning OrtTransformersOptimization PyTorchTensorParallel "
        "QLoRA QNNConversion QNNContextBinaryGenerator QNNModelLibGenerator QuaRot QuantizationAwareTraining "
        "QuarkQuantization RotateBase Rtn SNPEConversion SNPEQuantization SNPEtoONNXConversion SelectiveMixedPrecision "
        "SliceGPT SparseGPT SpinQuant SplitModel StaticLLM TensorRTModelOptQuantization TorchTRTConversion "
        "TransformersOptimization VitisAIQuantization VitisGenerateModelLLM VitisQDQQuantizer"
    ).split()
)
