//! A kernel's SPIR-V, read as far as it takes to say whether this device can run it.
//!
//! A driver that is handed a module with a capability that it lacks may do anything, so what a
//! module declares is compared with what the device has. Reading is total: any bytes are a module
//! or a reason why not.

use super::facts::Facts;
use ash::vk::SubgroupFeatureFlags as Subgroup;

const MAGIC: u32 = 0x0723_0203;
/// The newest version that Vulkan 1.3 takes.
const NEWEST: u32 = 0x0001_0600;

const OP_ENTRY_POINT: u32 = 15;
const OP_EXECUTION_MODE: u32 = 16;
const OP_CAPABILITY: u32 = 17;
const GL_COMPUTE: u32 = 5;
const LOCAL_SIZE: u32 = 17;

/// What a capability takes.
enum Needs {
    /// Every device that is opened has it.
    Nothing,
    Feature(&'static str),
    Operation(Subgroup),
}

/// Capabilities by their number in SPIR-V.
const CAPABILITIES: [(u32, &str, Needs); 26] = [
    (0, "Matrix", Needs::Nothing),
    (1, "Shader", Needs::Nothing),
    (9, "Float16", Needs::Feature("shaderFloat16")),
    (11, "Int64", Needs::Feature("shaderInt64")),
    (22, "Int16", Needs::Feature("shaderInt16")),
    (39, "Int8", Needs::Feature("shaderInt8")),
    (61, "GroupNonUniform", Needs::Operation(Subgroup::BASIC)),
    (62, "GroupNonUniformVote", Needs::Operation(Subgroup::VOTE)),
    (63, "GroupNonUniformArithmetic", Needs::Operation(Subgroup::ARITHMETIC)),
    (64, "GroupNonUniformBallot", Needs::Operation(Subgroup::BALLOT)),
    (65, "GroupNonUniformShuffle", Needs::Operation(Subgroup::SHUFFLE)),
    (66, "GroupNonUniformShuffleRelative", Needs::Operation(Subgroup::SHUFFLE_RELATIVE)),
    (67, "GroupNonUniformClustered", Needs::Operation(Subgroup::CLUSTERED)),
    (68, "GroupNonUniformQuad", Needs::Operation(Subgroup::QUAD)),
    (4433, "StorageBuffer16BitAccess", Needs::Feature("storageBuffer16BitAccess")),
    (4448, "StorageBuffer8BitAccess", Needs::Feature("storageBuffer8BitAccess")),
    (4466, "SignedZeroInfNanPreserve", Needs::Nothing),
    (5116, "BFloat16TypeKHR", Needs::Feature("shaderBFloat16Type")),
    (5118, "BFloat16CooperativeMatrixKHR", Needs::Feature("shaderBFloat16CooperativeMatrix")),
    (5345, "VulkanMemoryModel", Needs::Feature("vulkanMemoryModel")),
    (5346, "VulkanMemoryModelDeviceScope", Needs::Feature("vulkanMemoryModelDeviceScope")),
    (5347, "PhysicalStorageBufferAddresses", Needs::Feature("bufferDeviceAddress")),
    (6016, "DotProductInputAll", Needs::Feature("shaderIntegerDotProduct")),
    (6018, "DotProductInput4x8BitPacked", Needs::Feature("shaderIntegerDotProduct")),
    (6019, "DotProduct", Needs::Feature("shaderIntegerDotProduct")),
    (6022, "CooperativeMatrixKHR", Needs::Feature("cooperativeMatrix")),
];

/// A module with the entry point `main`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    pub words: Vec<u32>,
    /// Invocations of a workgroup, which is one row.
    pub local_size: u32,
}

impl Module {
    /// # Errors
    ///
    /// Why these bytes are no kernel, or none for this device: the reason of
    /// [`DeviceError::Code`](crate::DeviceError::Code).
    pub fn read(code: &[u8], facts: &Facts) -> Result<Self, String> {
        let (chunks, rest) = code.as_chunks::<4>();
        let words: Vec<u32> = chunks.iter().map(|word| u32::from_le_bytes(*word)).collect();
        if !rest.is_empty() || words.len() < 5 || words[0] != MAGIC {
            return Err("it is not SPIR-V".into());
        }
        if words[1] > NEWEST {
            let (major, minor) = (words[1] >> 16, words[1] >> 8 & 0xff);
            return Err(format!("it is SPIR-V {major}.{minor}, expected at most 1.6"));
        }
        let (mut main, mut size) = (false, None);
        let mut rest = &words[5..];
        while let Some(&first) = rest.first() {
            let length = (first >> 16) as usize;
            if length == 0 || length > rest.len() {
                return Err("it ends within an instruction".into());
            }
            let (instruction, after) = rest.split_at(length);
            match (first & 0xffff, &instruction[1..]) {
                (OP_CAPABILITY, &[capability]) => check(capability, facts)?,
                (OP_ENTRY_POINT, [GL_COMPUTE, _, name @ ..]) => main |= is_main(name),
                (OP_EXECUTION_MODE, &[_, LOCAL_SIZE, x, y, z]) => size = Some([x, y, z]),
                _ => (),
            }
            rest = after;
        }
        if !main {
            return Err("it has no compute shader `main`".into());
        }
        match size {
            Some([x, 1, 1]) if (1..=facts.max_group_size).contains(&x) => {
                Ok(Self { words, local_size: x })
            }
            Some([x, y, z]) => {
                let most = facts.max_group_size;
                Err(format!("its workgroups are {x} x {y} x {z}, expected at most {most} x 1 x 1"))
            }
            None => Err("it does not say how large its workgroups are".into()),
        }
    }
}

/// Whether a string of SPIR-V, and perhaps more words, is `main`.
fn is_main(name: &[u32]) -> bool {
    name.first() == Some(&u32::from_le_bytes(*b"main")) && name.get(1) == Some(&0)
}

fn check(capability: u32, facts: &Facts) -> Result<(), String> {
    let known = CAPABILITIES.iter().find(|(number, ..)| *number == capability);
    let Some((_, name, needs)) = known else {
        return Err(format!(
            "it needs the SPIR-V capability {capability}, which is not known here"
        ));
    };
    let has = match needs {
        Needs::Nothing => true,
        Needs::Feature(feature) => facts.features.contains(feature),
        Needs::Operation(operation) => facts.operations.contains(*operation),
    };
    match has {
        true => Ok(()),
        false => Err(format!("it needs `{name}`, which {} lacks", facts.named())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::gpu;
    use super::super::tests::{FLIP, code};
    use super::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn a_module_is_its_words_and_its_workgroups() {
        let flip = code(FLIP);
        let module = Module::read(&flip, &gpu()).unwrap();
        assert_eq!((module.local_size, bytes(&module.words)), (32, flip));
    }

    #[test]
    fn what_the_device_lacks_is_named() {
        let mut facts = gpu();
        facts.features.remove("shaderInt64");
        assert_eq!(
            Module::read(&code(FLIP), &facts).unwrap_err(),
            "it needs `Int64`, which `vulkan:1` (Big) lacks"
        );
        let facts = Facts { max_group_size: 16, ..gpu() };
        assert_eq!(
            Module::read(&code(FLIP), &facts).unwrap_err(),
            "its workgroups are 32 x 1 x 1, expected at most 16 x 1 x 1"
        );
        let foreign = [MAGIC, NEWEST, 0, 0, 0, 2 << 16 | OP_CAPABILITY, 6];
        assert_eq!(
            Module::read(&bytes(&foreign), &gpu()).unwrap_err(),
            "it needs the SPIR-V capability 6, which is not known here"
        );
    }

    #[test]
    fn every_cut_and_every_changed_word_is_a_module_or_a_reason() {
        let flip = code(FLIP);
        for end in 0..flip.len() {
            // The header and what is declared first are needed; after that a cut at a word that
            // begins an instruction is for the driver to refuse.
            let read = Module::read(&flip[..end], &gpu());
            assert!(read.is_err() || end > 120, "{end}");
        }
        for at in 0..flip.len() / 4 {
            for change in [0, 1, u32::MAX, 0xffff, 0x7fff_0000] {
                let mut words: Vec<u32> = Module::read(&flip, &gpu()).unwrap().words;
                words[at] = change;
                drop(Module::read(&bytes(&words), &gpu()));
            }
        }
        for (module, reason) in [
            (vec![], "it is not SPIR-V"),
            (vec![MAGIC, 0x0002_0000, 0, 0, 0], "it is SPIR-V 2.0, expected at most 1.6"),
            (vec![MAGIC, NEWEST, 0, 0, 0], "it has no compute shader `main`"),
            (vec![MAGIC, NEWEST, 0, 0, 0, 3 << 16], "it ends within an instruction"),
            (vec![MAGIC, NEWEST, 0, 0, 0, 0], "it ends within an instruction"),
        ] {
            assert_eq!(Module::read(&bytes(&module), &gpu()).unwrap_err(), reason);
        }
    }
}
