"""SAEs that the papers describe, as SAELens training classes: registered once this is imported.

- `mutual_choice`, `feature_choice`: which latents are on is chosen over a batch (`choice`)
- `tree`: a latent is on only where its parent is (`tree`)
- `group_sparse`: a few subspaces per token, dense inside (`group`)
- `mdl`: trained on its own description length (`entropy`)
"""

from sae_lens.registry import register_sae_class, register_sae_training_class

from mdlbench.training.architectures.choice import (
    FeatureChoiceConfig,
    FeatureChoiceTrainingSAE,
    MutualChoiceConfig,
    MutualChoiceTrainingSAE,
)
from mdlbench.training.architectures.entropy import EntropyConfig, EntropyTrainingSAE
from mdlbench.training.architectures.group import (
    GroupSparseConfig,
    GroupSparseSAE,
    GroupSparseTrainingConfig,
    GroupSparseTrainingSAE,
)
from mdlbench.training.architectures.tree import (
    TreeConfig,
    TreeSAE,
    TreeTrainingConfig,
    TreeTrainingSAE,
)

for _sae, _config in (
    (MutualChoiceTrainingSAE, MutualChoiceConfig),
    (FeatureChoiceTrainingSAE, FeatureChoiceConfig),
    (EntropyTrainingSAE, EntropyConfig),
    (TreeTrainingSAE, TreeTrainingConfig),
    (GroupSparseTrainingSAE, GroupSparseTrainingConfig),
):
    register_sae_training_class(_config.architecture(), _sae, _config)
for _sae, _config in ((TreeSAE, TreeConfig), (GroupSparseSAE, GroupSparseConfig)):
    register_sae_class(_config.architecture(), _sae, _config)
