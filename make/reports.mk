# Written by `make documents` from experiments/reports/catalogue.py: one target per report.
REPORTS := claims headline table1 table2 table3 figure1 figure2 figure3 figure4 figure5 figure6 ablations positions concentration part_distance bag_boxes bag_overlap candidates training convergence gallery_slender gallery_crowded gallery_random grids comparison peer trials models
EXTRAS := ablations grids trials models

claims: ## The paper's claims, judged
headline: ## Both detectors and their difference
table1: ## Table 1. NMS recall
table2: ## Table 2. FreeAnchor and RetinaNet
table3: ## Table 3. Longer schedules, scale jitter, multi-scale testing
figure1: ## Figure 1. Assignment by hand and learned
figure2: ## Figure 2. Saturated linear function
figure3: ## Figure 3. Mean-max
figure4: ## Figure 4. Matching of one object over training
figure5: ## Figure 5. Slender and square objects
figure6: ## Figure 6. Crowdedness
ablations: ## Ablations (Sec. 4.3)
positions: ## Where matching happens in objects
concentration: ## Concentration of bags over training
part_distance: ## Distance of the matched anchor from the discriminative part
bag_boxes: ## Boxes and scores of a bag's anchors
bag_overlap: ## What a bag can hold
candidates: ## NMS recall from equally many candidates
training: ## Loss, learning rate and effective anchors over training
convergence: ## AP over training
gallery_slender: ## Gallery: slender objects that one detector alone finds
gallery_crowded: ## Gallery: objects in crowds that one detector alone finds
gallery_random: ## Gallery: images drawn at random
grids: ## Two anchor grids, two bag sizes (PROFILE=photos)
comparison: ## FreeAnchor minus RetinaNet in every metric, paired
peer: ## Both detectors minus RetinaNet with torchvision's own loss (PROFILE=photos)
trials: ## The settings tried before the recipe was fixed, by RetinaNet's AP
models: ## Two small trained models, kept with the reports
